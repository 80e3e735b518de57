"""What the terminal says of a calibration."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lit_cascade.analysis import BINS, Comparison, Diagram, Fitness, StageCalibration
from lit_cascade.report.calibration_summary import Calibrated, recommendation, same_accuracy
from lit_cascade.report.console import cost_cells, cost_columns, new_table, results_console
from lit_cascade.report.text import percent, times

__all__ = ["print_calibration"]

_WIDTH = 24
_LEGEND = "█ right as often as said   ░ said and not so: too sure   ▒ so and not said: too unsure"


def print_calibration(found: Calibrated, where: str, notes: Sequence[str] = ()) -> None:
    """Print figures before and after, reliability diagrams, and the cascade with and without."""
    console, plan = results_console(), found.plan
    console.print(_fits_table(found, where))
    console.print(
        f"NLL in nats; ECE over {BINS} bins of equal width, then of equal mass; Brier from 0 to 2. "
        f"Figures are {plan.text}.",
        soft_wrap=True,
    )
    for name, stage in found.fitted.items():
        if found.method != "none" and stage.changed:
            console.print(f"It changes {percent(stage.changed, 2)} of the answers of {name!r}.")
        console.print(_diagram_table(name, stage, both=found.method != "none"))
    console.print(_LEGEND)
    if found.comparison is not None:
        console.print(_cascade_table(found, found.comparison))
    console.print(recommendation(found), soft_wrap=True)
    for note in notes:
        console.print(note, soft_wrap=True)


def _fits_table(found: Calibrated, where: str) -> Table:
    table = new_table(
        f"Calibration by {found.method} on {where}: fitted on {len(found.plan.fitted):,} samples",
        "stage", "temperature", "NLL before", "after", "ECE before", "after", "mass before",
        "after", "Brier before", "after",
    )  # fmt: skip
    for name, stage in found.fitted.items():
        of = {"vector": "per class", "none": "none"}
        shown = of.get(found.method, f"{stage.scaling.temperature:.4f}")
        pairs = zip(_figures(stage.before), _figures(stage.after), strict=True)
        table.add_row(
            name,
            shown + (" (at its bound)" if stage.scaling.at_bound else ""),
            *(f"{value:.4f}" for pair in pairs for value in pair),
        )
    return table


def _figures(found: Fitness) -> tuple[float, ...]:
    return found.nll, found.ece, found.ece_equal_mass, found.brier


def _diagram_table(name: str, stage: StageCalibration, *, both: bool) -> Table:
    columns = ["samples", "before: accuracy in each bin"]
    columns += ["samples", "after"] if both else []
    table = new_table(f"Reliability of {name!r}", "confidence", *columns)
    for column in table.columns[2::2]:
        column.justify = "left"
    before, after = stage.before.diagram, stage.after.diagram
    for k in range(len(before.counts)):
        if before.counts[k] or after.counts[k]:
            cells = [*_bin(before, k), *(_bin(after, k) if both else [])]
            table.add_row(f"{before.edges[k]:.3f} to {before.edges[k + 1]:.3f}", *cells)
    return table


def _bin(diagram: Diagram, k: int) -> list[str]:
    if not diagram.counts[k]:
        return ["", ""]
    return [f"{diagram.counts[k]:,}", _bar(diagram.confidence[k], diagram.accuracy[k])]


def _bar(confidence: float, accuracy: float) -> str:
    """What is said and what is so, as a bar from 0 to 1 and a figure.

    Example:
        >>> _bar(0.5, 0.25)
        '██████░░░░░░              25 %'
    """
    low, high = sorted((round(confidence * _WIDTH), round(accuracy * _WIDTH)))
    gap = ("░" if confidence > accuracy else "▒") * (high - low)
    return f"{'█' * low + gap:{_WIDTH}} {100 * accuracy:3.0f} %"


def _cascade_table(found: Calibrated, compared: Comparison) -> Table:
    names = [record.name for record in found.records]
    last = repr(names[-1])
    table = new_table(
        f"The cascade {' → '.join(names)} with and without, {len(found.plan.judged):,} samples",
        "", f"{names[0]!r} alone", "over all costs", f"as good as {last}: deferred",
        *cost_columns(found.unit), f"than {last}",
    )  # fmt: skip
    rows = (
        ("without", compared.before, compared.difference.before),
        (f"with {found.method}", compared.after, compared.difference.after),
    )
    for label, curve, mean in rows:
        point = same_accuracy(curve)
        cells = ["never", *[""] * len(cost_columns(found.unit)), ""]
        if point is not None:
            cost = cost_cells(point.cost, found.unit)
            cells = [percent(point.deferral_rate), *cost, times(point.cost_ratio)]
        table.add_row(
            label,
            percent(float(curve.stage_accuracy[0]), 2),
            percent(mean, 3),
            *cells,
        )
    return table
