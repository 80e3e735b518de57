"""Results as people read them: tables, summaries, CSV files, pictures and cards."""

from lit_cascade.report.calibration import (
    calibration_summary,
    draw_calibration,
    print_calibration,
)
from lit_cascade.report.card import Card
from lit_cascade.report.cascade_card import CURVE, CascadeCard
from lit_cascade.report.check import (
    check_summary,
    print_check,
    verdict_line,
    watch_advice,
    watch_heading,
    watch_line,
)
from lit_cascade.report.flops import flops_csv, flops_summary, print_flops
from lit_cascade.report.page import SAMPLES, check_reportable, html_report
from lit_cascade.report.savings import (
    known_cost_lines,
    known_cost_summary,
    saving_line,
    saving_summary,
)
from lit_cascade.report.scores import (
    draw_scores,
    print_fitted_scores,
    print_scores,
    scores_csv,
    scores_summary,
)
from lit_cascade.report.screen import draw_screen, print_screen, screen_csv, screen_summary
from lit_cascade.report.search import (
    draw_frontier,
    frontier_csv,
    frontier_summary,
    print_comparison,
    print_frontier,
    strategy_summary,
)
from lit_cascade.report.selection import (
    candidates_csv,
    draw_selection,
    policy_line,
    print_selection,
    selection_summary,
)
from lit_cascade.report.speed import (
    benchmark_notes,
    draw_speed,
    latency_table,
    pace_table,
    speed_summary,
)
from lit_cascade.report.tables import (
    print_answers,
    print_card,
    print_execution,
    print_records,
    records_summary,
)
from lit_cascade.report.text import (
    data_notes,
    file_size,
    fitting_notes,
    inform,
    model_notes,
    printing,
    show,
    show_summary,
)
from lit_cascade.report.validation import (
    Validation,
    curve_csv,
    draw_curve,
    outcome_summary,
    print_validation,
    validation_summary,
)

__all__ = [
    "CURVE", "SAMPLES", "Card", "CascadeCard", "Validation", "benchmark_notes",
    "calibration_summary", "candidates_csv", "check_reportable", "check_summary", "curve_csv",
    "data_notes", "draw_calibration", "draw_curve", "draw_frontier", "draw_scores", "draw_screen",
    "draw_selection", "draw_speed", "file_size", "fitting_notes", "flops_csv", "flops_summary",
    "frontier_csv", "frontier_summary", "html_report", "inform", "known_cost_lines",
    "known_cost_summary", "latency_table", "model_notes", "outcome_summary", "pace_table",
    "policy_line", "print_answers", "print_calibration", "print_card", "print_check",
    "print_comparison", "print_execution", "print_fitted_scores", "print_flops", "print_frontier",
    "print_records", "print_scores", "print_screen", "print_selection", "print_validation",
    "printing", "records_summary", "saving_line", "saving_summary", "scores_csv", "scores_summary",
    "screen_csv", "screen_summary", "selection_summary", "show", "show_summary", "speed_summary",
    "strategy_summary", "validation_summary", "verdict_line", "watch_advice", "watch_heading",
    "watch_line",
]  # fmt: skip
