"""Style of all pictures: the palette, axes, marks of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lit_cascade.utilities.text import single_line
from lit_cascade.utilities.units import cost_axis, cost_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The palette of Okabe and Ito, which colour-blind readers can tell apart.
BLUE, SKY_BLUE, GREEN = "#0072b2", "#56b4e9", "#009e73"
ORANGE, VERMILION = "#e69f00", "#d55e00"
BLACK, GREY, LIGHT_GREY = "#222222", "#7f7f7f", "#b4b4b4"


def axes_of(ax: Axes | None) -> Axes:
    """The given axes, or those of a new pyplot figure, which a notebook shows."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only who draws loads it

    return plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1]


def axes_row(count: int) -> Sequence[Axes]:
    """The axes of a new pyplot figure, side by side."""
    import matplotlib.pyplot as plt  # noqa: PLC0415

    size = (4.4 * count + 0.4, 4.2)
    axes: Sequence[Axes] = plt.subplots(
        1, count, squeeze=False, figsize=size, layout="constrained"
    )[1][0]
    return axes


def quiet(axes: Axes, which: Literal["major", "minor", "both"] = "major") -> None:
    """Draw a faint grid and remove the frame above and at the right."""
    axes.grid(visible=True, which=which, alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def along_cost(axes: Axes, unit: str, *, log: bool = True) -> None:
    """Make the horizontal axis one of costs per sample; money is told per million calls."""
    from matplotlib.ticker import FuncFormatter, LogFormatter  # noqa: PLC0415

    class Costs(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return cost_figure(x, unit) if super().__call__(x, pos) else ""

    axes.set_xscale("log" if log else "linear")
    axes.set_xlabel(cost_axis(unit))
    if log:
        axes.xaxis.set_major_formatter(Costs())
        axes.xaxis.set_minor_formatter(Costs())
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: cost_figure(x, unit)))


def literal(text: str) -> str:
    r"""Text that matplotlib shows as it is: names may hold dollars, which begin formulas.

    Examples:
        >>> print(literal("a$b$c"))
        a\$b\$c
    """
    return single_line(text).replace("$", r"\$")


def mark(axes: Axes, name: str, point: tuple[float, float], side: str = "center") -> None:
    """Draw a dot for a model, with its name below it, aligned to a side."""
    from matplotlib.patheffects import withStroke  # noqa: PLC0415

    axes.plot(*point, "o", color=BLACK, markersize=6, zorder=5)
    axes.annotate(
        literal(name), point,
        textcoords="offset points", xytext=(0, -8), ha=side, va="top", fontsize=9,
        path_effects=[withStroke(linewidth=3, foreground="white")], zorder=6,
    )  # fmt: skip


def name_points(
    axes: Axes,
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    *,
    side: Literal["above", "below"] = "below",
    size: float = 7,
) -> None:
    """Name the points beside which there is room.

    Call it last: a later change of the limits makes names overlap.

    Args:
        axes: with their limits and legend.
        names: of the points, the most important first.
        points: horizontal and vertical position of each.
        side: of a point where its name is: above and to the left, or below and to the right.
        size: of the letters.
    """
    offset, align = {"above": ((-4, 2), "right"), "below": ((5, -9), "left")}[side]
    axes.figure.canvas.figure.draw_without_rendering()  # sizes are not known before
    marks, legend = axes.transData.transform(points), axes.get_legend()
    taken = [] if legend is None else [legend.get_window_extent()]
    for at, (name, point) in enumerate(zip(names, points, strict=True)):
        text = axes.annotate(
            literal(name), point, textcoords="offset points", xytext=offset, ha=align,
            fontsize=size, zorder=5,
        )  # fmt: skip
        box = text.get_window_extent().padded(2)
        if (
            axes.get_window_extent().x0 <= box.x0
            and not any(box.overlaps(other) for other in taken)
            and not any(box.contains(*mark) for place, mark in enumerate(marks) if place != at)
        ):
            taken.append(box)
        else:
            text.remove()
