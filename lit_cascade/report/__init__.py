"""What a person reads: tables, files and pictures."""

from lit_cascade.report.calibration import (
    print_calibration,
)
from lit_cascade.report.calibration_plot import (
    draw_calibration,
)
from lit_cascade.report.calibration_summary import (
    Calibrated,
    calibration_summary,
    fit_summary,
    recommendation,
    verdict_summary,
)
from lit_cascade.report.card import (
    Card,
)
from lit_cascade.report.checking import (
    check_summary,
    print_check,
    verdict_line,
)
from lit_cascade.report.frontier import (
    contest_summary,
    frontier_csv,
    frontier_summary,
    print_comparison,
    print_frontier,
)
from lit_cascade.report.frontier_plot import (
    draw_frontier,
)
from lit_cascade.report.learned import (
    print_heads,
)
from lit_cascade.report.notes import (
    data_notes,
    fitting_notes,
    model_notes,
)
from lit_cascade.report.plots import (
    draw_curve,
)
from lit_cascade.report.recording import (
    print_records,
)
from lit_cascade.report.scores import (
    head_summary,
    print_scores,
    scores_csv,
    scores_summary,
)
from lit_cascade.report.scores_plot import (
    draw_scores,
)
from lit_cascade.report.screen import (
    draw_screen,
    print_screen,
    screen_csv,
    screen_summary,
)
from lit_cascade.report.selection import (
    Subject,
    none_qualifies,
    policy_line,
    print_selection,
    selection_summary,
    typed_thresholds,
)
from lit_cascade.report.selection_plot import (
    draw_selection,
)
from lit_cascade.report.speed import (
    benchmark_notes,
    latency_table,
    pace_table,
    print_speed,
    speed_summary,
)
from lit_cascade.report.speed_plot import (
    draw_speed,
)
from lit_cascade.report.summary import (
    Validation,
    outcome_summary,
    validation_summary,
)
from lit_cascade.report.tables import (
    print_answers,
    print_card,
    print_execution,
    print_written,
)
from lit_cascade.report.text import (
    json_number,
    percent,
)
from lit_cascade.report.validation import (
    print_validation,
)

__all__ = [
    "Calibrated",
    "Card",
    "Subject",
    "Validation",
    "benchmark_notes",
    "calibration_summary",
    "check_summary",
    "contest_summary",
    "data_notes",
    "draw_calibration",
    "draw_curve",
    "draw_frontier",
    "draw_scores",
    "draw_screen",
    "draw_selection",
    "draw_speed",
    "fit_summary",
    "fitting_notes",
    "frontier_csv",
    "frontier_summary",
    "head_summary",
    "json_number",
    "latency_table",
    "model_notes",
    "none_qualifies",
    "outcome_summary",
    "pace_table",
    "percent",
    "policy_line",
    "print_answers",
    "print_calibration",
    "print_card",
    "print_check",
    "print_comparison",
    "print_execution",
    "print_frontier",
    "print_heads",
    "print_records",
    "print_scores",
    "print_screen",
    "print_selection",
    "print_speed",
    "print_validation",
    "print_written",
    "recommendation",
    "scores_csv",
    "scores_summary",
    "screen_csv",
    "screen_summary",
    "selection_summary",
    "speed_summary",
    "typed_thresholds",
    "validation_summary",
    "verdict_line",
    "verdict_summary",
]
