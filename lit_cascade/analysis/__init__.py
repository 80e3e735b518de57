"""Questions about recorded models: the arithmetic of `core` applied to records."""

from lit_cascade.analysis.answers import Tally
from lit_cascade.analysis.calibration import (
    Calibration,
    CalibrationEffect,
    CalibrationPlan,
    Method,
    StageCalibration,
    calibrate,
    calibrate_record,
    check_fitted_score,
    compare_cascades,
    cross_fitted,
)
from lit_cascade.analysis.check import Verdict, check, promise_in
from lit_cascade.analysis.class_order import rates_renumbered
from lit_cascade.analysis.curve import (
    Replay,
    cost_notes,
    curve,
    official_metric,
    outcomes_of,
    policy_for,
    replay,
    score_notes,
)
from lit_cascade.analysis.deferral_head import FittedHead, fit_head, fit_heads
from lit_cascade.analysis.disagreement import check_disagreements, disagreements
from lit_cascade.analysis.evidence import check_overlap, fitted_on
from lit_cascade.analysis.monitoring import Checked, Monitor, Window
from lit_cascade.analysis.reliability import BINS, CalibrationMetrics, ReliabilityDiagram
from lit_cascade.analysis.savings import KnownCost, MonthlySaving, check_calls, known_cost
from lit_cascade.analysis.scores import (
    DRAWS,
    Estimate,
    ScoreComparison,
    ScoreFigures,
    compare_scores,
)
from lit_cascade.analysis.screening import (
    Criteria,
    PublishedModel,
    PublishedTable,
    ScreenedModel,
    Screening,
    largest_sizes,
    least_missed,
    published_front,
    published_models,
    screen,
)
from lit_cascade.analysis.search import (
    Pick,
    Reduction,
    SearchResult,
    Strategy,
    evaluate_strategies,
    search,
    variants,
)
from lit_cascade.analysis.selection import HeldOutPolicy, Selection, select

__all__ = [
    "BINS", "DRAWS", "Calibration", "CalibrationEffect", "CalibrationMetrics", "CalibrationPlan",
    "Checked", "Criteria", "Estimate", "FittedHead", "HeldOutPolicy", "KnownCost", "Method",
    "Monitor", "MonthlySaving", "Pick", "PublishedModel", "PublishedTable", "Reduction",
    "ReliabilityDiagram", "Replay", "ScoreComparison", "ScoreFigures", "ScreenedModel", "Screening",
    "SearchResult", "Selection", "StageCalibration", "Strategy", "Tally", "Verdict", "Window",
    "calibrate", "calibrate_record", "check", "check_calls", "check_disagreements",
    "check_fitted_score", "check_overlap", "compare_cascades", "compare_scores", "cost_notes",
    "cross_fitted", "curve", "disagreements", "evaluate_strategies", "fit_head", "fit_heads",
    "fitted_on", "known_cost", "largest_sizes", "least_missed", "official_metric", "outcomes_of",
    "policy_for", "promise_in", "published_front", "published_models", "rates_renumbered", "replay",
    "score_notes", "screen", "search", "select", "variants",
]  # fmt: skip
