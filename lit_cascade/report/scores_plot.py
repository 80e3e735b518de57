"""The picture of several scores: accuracy against deferral rate, between chance and the oracle."""

from __future__ import annotations

from lit_cascade.analysis import Comparison
from lit_cascade.core import deferral_curve, oracle_curve
from lit_cascade.report.pictures import figure_of, png_of, quiet

__all__ = ["draw_scores"]

_GREY, _BLACK = "#7f7f7f", "#222222"

# safe for the colour-blind, and told apart by their lines where they lie on each other
_LINES = (
    ("#0072b2", "-"),
    ("#e69f00", "--"),
    ("#009e73", "-."),
    ("#d55e00", (0, (1, 1))),
)


def draw_scores(found: Comparison, where: str) -> bytes:
    """Accuracy against deferral rate of every score as a PNG, with random and oracle deferral.

    Args:
        found: the comparison.
        where: the data and split.

    Returns:
        The content of the PNG file.
    """
    figure = figure_of(6.4, 4.2)
    axes = figure.add_subplot()
    best = oracle_curve(found.correct)
    axes.plot(
        100 * best.rate, 100 * best.accuracy, ":", color=_BLACK, linewidth=1.2,
        label="oracle deferral (1)",
    )  # fmt: skip
    for one, (colour, style) in zip(found.figures, _LINES, strict=False):
        curve = deferral_curve(one.scores, found.correct)
        axes.plot(
            100 * curve.rate, 100 * curve.accuracy, linestyle=style, color=colour, linewidth=1.6,
            label=f"{one.name} ({one.area.value:.3f})", zorder=3,
        )  # fmt: skip
    small, large = (100 * accuracy for accuracy in found.accuracy)
    axes.plot(
        [0, 100], [small, large], "--", color=_GREY, linewidth=1.2, label="random deferral (0)"
    )
    sides = ((0, small, "left"), (100, large, "right"))
    for (rate, accuracy, side), name in zip(sides, found.names, strict=True):
        axes.plot(rate, accuracy, "o", color=_BLACK, markersize=6, zorder=5)
        axes.annotate(
            name, (rate, accuracy), textcoords="offset points", xytext=(0, -8), ha=side, va="top",
            fontsize=9,
        )  # fmt: skip
    axes.set_xlabel("deferral rate (%)")
    axes.set_ylabel("accuracy (%)")
    axes.set_title(f"{' → '.join(found.names)} on {where} ({found.n:,} samples)", fontsize=10)
    axes.legend(frameon=False, loc="best", fontsize=8)
    quiet(axes)
    axes.margins(x=0.04, y=0.1)
    return png_of(figure)
