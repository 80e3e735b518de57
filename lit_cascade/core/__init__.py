"""The mathematics of a cascade: scores, the contract, curves, metrics and calibration."""

from lit_cascade.core.bootstrap import percentile_interval, resampled_counts
from lit_cascade.core.calibration import cross_fit, fit_temperature, softmax_blocks
from lit_cascade.core.combination import COMBINATIONS, answers_after, prefer_later
from lit_cascade.core.contract import (
    StageOutputs,
    above_floor,
    answers_here,
    replay,
    route,
    stage_outputs,
)
from lit_cascade.core.curve import (
    Curve,
    OperatingPoint,
    OperatingPoints,
    cheapest,
    departures,
    operating_points,
    oracle_deferral,
    readable_threshold,
    sweep,
)
from lit_cascade.core.deferral_head import (
    FEATURES,
    RECORDED_FEATURES,
    DeferralHead,
    LogOdds,
    features_of,
)
from lit_cascade.core.metrics import (
    METRICS,
    Answers,
    Counts,
    check_countable,
    count,
    is_among_best,
    is_right,
    likeliest_labels,
    measure,
)
from lit_cascade.core.norms import FittedNorm, fit_norm
from lit_cascade.core.outcomes import StageOutcomes, at_stage
from lit_cascade.core.paired import AccuracyDifference, paired_difference, ranked_within
from lit_cascade.core.policy import Policy, PolicyLike
from lit_cascade.core.quality import Quality, aurc, deferral_quality, quality_of
from lit_cascade.core.scores import (
    AGREEMENT,
    LEARNED,
    MAX_LOGIT_PNORM,
    RECORDED,
    SCORES,
    TWO_CLASSES,
    Judgement,
    RecordedAnswers,
    Score,
    StageOutput,
    agreement,
    answers_of,
    check_logits,
    max_logit_pnorm,
    probabilities_of,
    score_and_answer,
    score_named,
    shift,
)

__all__ = [
    "AGREEMENT", "COMBINATIONS", "FEATURES", "LEARNED", "MAX_LOGIT_PNORM", "METRICS", "RECORDED",
    "RECORDED_FEATURES", "SCORES", "TWO_CLASSES", "AccuracyDifference", "Answers", "Counts",
    "Curve", "DeferralHead", "FittedNorm", "Judgement", "LogOdds", "OperatingPoint",
    "OperatingPoints", "Policy", "PolicyLike", "Quality", "RecordedAnswers", "Score",
    "StageOutcomes", "StageOutput", "StageOutputs", "above_floor", "agreement", "answers_after",
    "answers_here", "answers_of", "at_stage", "aurc", "cheapest", "check_countable", "check_logits",
    "count", "cross_fit", "deferral_quality", "departures", "features_of", "fit_norm",
    "fit_temperature", "is_among_best", "is_right", "likeliest_labels", "max_logit_pnorm",
    "measure", "operating_points", "oracle_deferral", "paired_difference", "percentile_interval",
    "prefer_later", "probabilities_of", "quality_of", "ranked_within", "readable_threshold",
    "replay", "resampled_counts", "route", "score_and_answer", "score_named", "shift",
    "softmax_blocks", "stage_outputs", "sweep",
]  # fmt: skip
