"""Questions about recorded models: the arithmetic of `core` applied to records."""

from lit_cascade.analysis.calibration import (
    CalibrationEffect,
    CalibrationPlan,
    Method,
    StageCalibration,
    calibrate_record,
    compare_cascades,
)
from lit_cascade.analysis.check import Verdict, check_promise, promise_in, references
from lit_cascade.analysis.curve import (
    cost_notes,
    curve_of_records,
    official_metric,
    outcomes_of,
    without_logits,
)
from lit_cascade.analysis.deferral_head import FittedHead, fit_head, fit_heads
from lit_cascade.analysis.evidence import check_overlap, fitted_on, unused_rows
from lit_cascade.analysis.protocol import DecisionRule, protocol_of
from lit_cascade.analysis.reliability import BINS, CalibrationMetrics, ReliabilityDiagram
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
    evaluate_strategy,
    frontier_of,
    variants,
)
from lit_cascade.analysis.selection import Selection, select_thresholds

__all__ = [
    "BINS", "DRAWS", "CalibrationEffect", "CalibrationMetrics", "CalibrationPlan", "Criteria",
    "DecisionRule", "Estimate", "FittedHead", "Method", "Pick", "PublishedModel", "PublishedTable",
    "Reduction", "ReliabilityDiagram", "ScoreComparison", "ScoreFigures", "ScreenedModel",
    "Screening", "SearchResult", "Selection", "StageCalibration", "Strategy", "Verdict",
    "calibrate_record", "check_overlap", "check_promise", "compare_cascades", "compare_scores",
    "cost_notes", "curve_of_records", "evaluate_strategy", "fit_head", "fit_heads", "fitted_on",
    "frontier_of", "largest_sizes", "least_missed", "official_metric", "outcomes_of", "promise_in",
    "protocol_of", "published_front", "published_models", "references", "screen",
    "select_thresholds", "unused_rows", "variants", "without_logits",
]  # fmt: skip
