"""Questions about recorded models: the arithmetic of `core` applied to records."""

from lit_cascade.analysis.calibration import (
    Method,
    Plan,
    StageCalibration,
    calibrate_record,
    compare_cascades,
)
from lit_cascade.analysis.check import Verdict, check_promise, promise_in, references
from lit_cascade.analysis.curve import (
    Outcome,
    cost_notes,
    curve_of_records,
    judge,
    official_metric,
    outcome,
    replay_outcome,
    without_logits,
)
from lit_cascade.analysis.deferral_head import FittedHead, fit_head, fit_heads
from lit_cascade.analysis.evidence import check_overlap, fitted_on, unused_rows
from lit_cascade.analysis.protocol import Rule, protocol_of
from lit_cascade.analysis.reliability import BINS, Diagram, Fitness
from lit_cascade.analysis.scores import DRAWS, Comparison, Figure, ScoreFigures, compare_scores
from lit_cascade.analysis.screening import (
    Candidate,
    Criteria,
    Published,
    PublishedModel,
    Screen,
    largest_sizes,
    least_missed,
    published_front,
    published_models,
    screen,
)
from lit_cascade.analysis.search import (
    Contest,
    Frontier,
    Pick,
    Reduction,
    contest_of,
    frontier_of,
    variants,
)
from lit_cascade.analysis.selection import Choice, Selection, behaviour_of, select_thresholds

__all__ = [
    "BINS",
    "DRAWS",
    "Candidate",
    "Choice",
    "Comparison",
    "Contest",
    "Criteria",
    "Diagram",
    "Figure",
    "Fitness",
    "FittedHead",
    "Frontier",
    "Method",
    "Outcome",
    "Pick",
    "Plan",
    "Published",
    "PublishedModel",
    "Reduction",
    "Rule",
    "ScoreFigures",
    "Screen",
    "Selection",
    "StageCalibration",
    "Verdict",
    "behaviour_of",
    "calibrate_record",
    "check_overlap",
    "check_promise",
    "compare_cascades",
    "compare_scores",
    "contest_of",
    "cost_notes",
    "curve_of_records",
    "fit_head",
    "fit_heads",
    "fitted_on",
    "frontier_of",
    "judge",
    "largest_sizes",
    "least_missed",
    "official_metric",
    "outcome",
    "promise_in",
    "protocol_of",
    "published_front",
    "published_models",
    "references",
    "replay_outcome",
    "screen",
    "select_thresholds",
    "unused_rows",
    "variants",
    "without_logits",
]
