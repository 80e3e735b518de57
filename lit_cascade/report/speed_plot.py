"""The picture of a cascade's speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_cascade.live import Speed
from lit_cascade.report.pictures import figure_of, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_speed"]

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#7f7f7f"  # safe for the colour-blind


def draw_speed(title: str, kinds: Sequence[tuple[str, Sequence[Speed]]]) -> bytes:
    """Speed-up over the last stage alone against the deferral rate, as a PNG.

    Args:
        title: of the picture.
        kinds: what was measured, and at which policies; a panel each.

    Returns:
        The content of the PNG file.
    """
    figure = figure_of(5.4 * len(kinds), 4.0)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, (kind, speeds) in zip(panels, kinds, strict=True):
        _panel(axes, kind, sorted(speeds, key=lambda speed: speed.deferral_rate))
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return png_of(figure)


def _panel(axes: Axes, kind: str, speeds: Sequence[Speed]) -> None:
    rates = [100 * speed.deferral_rate for speed in speeds]
    ideal = [speed.ideal_speedup for speed in speeds]
    real = [speed.speedup for speed in speeds]
    axes.plot(rates, ideal, "--o", color=_GREY, markersize=4, linewidth=1.2, label="ideal")
    spread = [[mid - low for mid, low, _ in real], [high - mid for mid, _, high in real]]
    axes.errorbar(
        rates, [mid for mid, _, _ in real], yerr=spread, fmt="-o", color=_BLUE, markersize=4,
        linewidth=1.6, capsize=2, label="cascade, median and range of the repeats",
    )  # fmt: skip
    axes.axhline(1.0, color=_ORANGE, linewidth=1.0, label="last stage alone")
    axes.set_xlabel("deferred by the first stage (%)")
    axes.set_ylabel("times as fast as the last stage alone")
    axes.set_title(kind, fontsize=9)
    axes.grid(alpha=0.25)
    axes.set_ylim(bottom=0)
