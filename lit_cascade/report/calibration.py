"""The result of `calibrate`: fits, reliability diagrams, and the cascade with and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_cascade.analysis import (
    BINS,
    Calibration,
    CalibrationEffect,
    CalibrationMetrics,
    ReliabilityDiagram,
    StageCalibration,
)
from lit_cascade.core import Curve, OperatingPoint, cheapest
from lit_cascade.report.pictures import figure_of, png_of
from lit_cascade.report.points import THAN, point_cells, point_summary, share_heading
from lit_cascade.report.text import Column, Table, cost_columns, show
from lit_cascade.report.validation import provenance
from lit_cascade.utilities.units import counted, percent


def same_accuracy(curve: Curve) -> OperatingPoint | None:
    """The cheapest point with the last stage's accuracy."""
    return cheapest(curve, float(curve.stage_accuracy[-1]))


def _curve_summary(curve: Curve, mean: float, unit: str) -> dict[str, Any]:
    point = same_accuracy(curve)
    return {
        "mean_accuracy": mean,
        "stage_accuracy": curve.stage_accuracy.tolist(),
        "same_accuracy": None if point is None else point_summary(point, unit),
    }


def calibration_summary(result: Calibration) -> dict[str, Any]:
    """The content of `summary.json`."""
    compared, unit = result.comparison, result.unit
    stages = {name: stage.summary(diagrams=True) for name, stage in result.fitted.items()}
    return {
        "n": len(result.records[0]),
        "fitted_on": len(result.plan.fitted),
        "judged_on": len(result.plan.evaluated),
        **result.verdict,
        "unit": unit,
        "stages": stages,
        "cascade": None
        if compared is None
        else {
            "without": _curve_summary(compared.before, compared.difference.before, unit),
            "with": _curve_summary(compared.after, compared.difference.after, unit),
        },
        "recommendation": result.recommendation,
        "learned": {name: one.summary() for name, one in result.heads.items()} or None,
        "norms": {name: one.summary() for name, one in result.norms.items()} or None,
        "learned_verdict": result.learned_verdict or None,
        "provenance": provenance(result.records),
    }


_WIDTH = 16
_LEGEND = "█ accuracy up to the confidence   ░ overconfident   ▒ underconfident"


def print_calibration(result: Calibration, where: str, notes: Sequence[str] = ()) -> None:
    """Print figures before and after, reliability diagrams, and the cascade with and without.

    Nothing where no stage has logits, so that only a learned score was fitted.
    """
    if not result.fitted:
        show(*notes)
        return
    legend = (
        f"NLL in nats; ECE over {BINS} bins of equal width, then of equal mass; Brier from 0 to 2. "
        f"Figures are {result.plan.text}."
    )
    parts: list[Table | str] = [_fits_table(result, where), legend]
    for name, stage in result.fitted.items():
        parts.append(_diagram_table(name, stage, both=result.method != "none"))
    parts.append(_LEGEND)
    if result.comparison is not None:
        parts.append(_cascade_table(result, result.comparison))
    show(*parts, result.recommendation, *notes)


def _fits_table(result: Calibration, where: str) -> Table:
    samples = counted(len(result.plan.fitted), "sample")
    table = Table(
        f"Calibration by {result.method} on {where}: fitted on {samples}",
        "stage", "temperature", "NLL before", "NLL after", "ECE before", "ECE after",
        Column("mass before", detail=2), Column("mass after", detail=2),
        Column("Brier before", detail=1), Column("Brier after", detail=1),
    )  # fmt: skip
    for name, stage in result.fitted.items():
        shown = "none" if result.method == "none" else f"{stage.temperature:.4f}"
        pairs = zip(_figures(stage.before), _figures(stage.after), strict=True)
        table.add_row(
            name,
            shown + (" (at its bound)" if stage.at_bound else ""),
            *(f"{value:.4f}" for pair in pairs for value in pair),
        )
    return table


def _figures(result: CalibrationMetrics) -> tuple[float, ...]:
    return result.nll, result.ece, result.ece_equal_mass, result.brier


def _diagram_table(name: str, stage: StageCalibration, *, both: bool) -> Table:
    columns: list[str | Column] = ["samples", Column("accuracy before", left=True)]
    columns += ["samples", Column("accuracy after", left=True)] if both else []
    table = Table(f"Reliability of {name!r}", "confidence", *columns)
    before, after = stage.before.diagram, stage.after.diagram
    for k in range(len(before.counts)):
        if before.counts[k] or after.counts[k]:
            cells = [*_bin(before, k), *(_bin(after, k) if both else [])]
            table.add_row(f"{before.edges[k]:.3f}-{before.edges[k + 1]:.3f}", *cells)
    return table


def _bin(diagram: ReliabilityDiagram, k: int) -> list[str]:
    if not diagram.counts[k]:
        return ["", ""]
    return [f"{diagram.counts[k]:,}", _bar(diagram.confidence[k], diagram.accuracy[k])]


def _bar(confidence: float, accuracy: float) -> str:
    """Confidence and accuracy as a bar from 0 to 1, with the accuracy in percent.

    Examples:
        >>> _bar(0.5, 0.25)
        '████░░░░          25 %'
    """
    low, high = sorted((round(confidence * _WIDTH), round(accuracy * _WIDTH)))
    gap = ("░" if confidence > accuracy else "▒") * (high - low)
    return f"{'█' * low + gap:{_WIDTH}} {100 * accuracy:3.0f} %"


def _cascade_table(result: Calibration, compared: CalibrationEffect) -> Table:
    names = [record.name for record in result.records]
    samples = counted(len(result.plan.evaluated), "sample")
    table = Table(
        f"The cascade {' → '.join(names)} with and without, {samples}",
        "", "first stage alone", "over all costs", f"{share_heading(len(names))} at equal accuracy",
        *cost_columns(result.unit), THAN,
    )  # fmt: skip
    rows = (
        ("without", compared.before, compared.difference.before),
        (f"with {result.method}", compared.after, compared.difference.after),
    )
    for label, curve, mean in rows:
        point = same_accuracy(curve)
        deferred, _, *rest = point_cells(point, result.unit)
        table.add_row(
            label,
            percent(float(curve.stage_accuracy[0]), 2),
            percent(mean, 3),
            deferred or "never",
            *rest,
        )
    return table


def draw_calibration(result: Calibration) -> bytes:
    """Reliability diagrams before and after, and both curves of the cascade, as a PNG."""
    effects = (result.comparison, result.learned)
    panels = max(1, len(result.fitted) + sum(one is not None for one in effects))
    figure = figure_of(4.4 * panels + 0.4, 4.2)
    result.plot(figure.subplots(1, panels, squeeze=False)[0])
    return png_of(figure)
