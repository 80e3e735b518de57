"""The picture of a calibration: reliability of each stage, and the cascade with and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lit_cascade.analysis import Comparison, Fitness
from lit_cascade.report.calibration_summary import Calibrated
from lit_cascade.report.pictures import figure_of, png_of, quiet
from lit_cascade.utilities.units import cost_axis, metric_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_calibration"]

_BLUE, _ORANGE, _BLACK = "#0072b2", "#d55e00", "#222222"
_LARGEST = 160


def draw_calibration(found: Calibrated) -> bytes:
    """Reliability diagrams before and after, and both curves of the cascade, as a PNG.

    Args:
        found: the calibration.

    Returns:
        The content of the PNG file.
    """
    compared = found.comparison
    panels = len(found.fitted) + (compared is not None)
    figure = figure_of(4.4 * panels + 0.4, 4.2)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel, (name, stage) in zip(axes, found.fitted.items(), strict=False):
        panel.plot([0, 1], [0, 1], ":", color=_BLACK, linewidth=1.2)
        _reliability(panel, stage.before, "before", _ORANGE, "-.")
        if compared is not None:
            _reliability(panel, stage.after, "after", _BLUE, "-")
        panel.set_title(f"reliability of {name!r}", fontsize=10)
        panel.set_xlabel("confidence")
        panel.set_ylabel("accuracy")
        panel.set_xlim(0, 1.02)
        panel.set_ylim(0, 1.02)
        _finish(panel)
    if compared is not None:
        _curves(axes[-1], found, compared)
    return png_of(figure)


def _reliability(axes: Axes, found: Fitness, label: str, colour: str, style: str) -> None:
    """Bins as points, as large as they are full; empty ones are left out."""
    counts = np.array(found.diagram.counts)
    there = counts > 0
    x = np.array(found.diagram.confidence)[there]
    y = np.array(found.diagram.accuracy)[there]
    axes.plot(x, y, style, color=colour, linewidth=1.4, label=f"{label}: ECE {found.ece:.3f}")
    sizes = 4 + _LARGEST * counts[there] / counts.sum()
    axes.scatter(x, y, s=sizes, color=colour, alpha=0.5, linewidths=0, zorder=3)


def _curves(axes: Axes, found: Calibrated, compared: Comparison) -> None:
    pairs = (
        (compared.before, "without", _ORANGE, "-."),
        (compared.after, f"with {found.method}", _BLUE, "-"),
    )
    for curve, label, colour, style in pairs:
        axes.plot(
            curve.cost, 100 * curve.accuracy, style, drawstyle="steps-post", color=colour,
            linewidth=1.6, label=label,
        )  # fmt: skip
    curve = compared.after
    for k, record in enumerate(found.records):
        at = float(curve.stage_cost[k]), 100 * float(curve.stage_accuracy[k])
        axes.plot(*at, "o", color=_BLACK, markersize=5, zorder=5)
        axes.annotate(
            record.name, at, textcoords="offset points", xytext=(0, -7), ha="center", va="top",
            fontsize=8,
        )  # fmt: skip
    low, high = (100 * end for end in compared.difference.interval)
    axes.set_title(
        f"the cascade: {100 * compared.difference.value:+.3f} points ({low:+.3f} to {high:+.3f})",
        fontsize=10,
    )
    axes.set_xscale("log" if bool((curve.cost > 0).all()) else "linear")
    axes.set_xlabel(cost_axis(found.unit))
    axes.set_ylabel(metric_axis("accuracy"))
    axes.margins(x=0.12, y=0.1)
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    quiet(axes, "both")
