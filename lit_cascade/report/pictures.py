"""Parts of all pictures: the palette, a figure without a window, quiet axes, a PNG in memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, which colour-blind readers can tell apart.
BLUE, SKY_BLUE, GREEN = "#0072b2", "#56b4e9", "#009e73"
ORANGE, VERMILION = "#e69f00", "#d55e00"
BLACK, GREY, LIGHT_GREY = "#222222", "#7f7f7f", "#b4b4b4"


def figure_of(width: float, height: float) -> Figure:
    """A figure of the given size in inches that needs no window system."""
    # commands that draw nothing do not load matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: Figure) -> bytes:
    """The content of a PNG file, without the name and version of the program that wrote it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def quiet(axes: Axes, which: Literal["major", "minor", "both"] = "major") -> None:
    """Draw a faint grid and remove the frame above and at the right."""
    axes.grid(visible=True, which=which, alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def mark(axes: Axes, name: str, point: tuple[float, float], side: str = "center") -> None:
    """Draw a dot for a model, with its name below it, aligned to a side."""
    axes.plot(*point, "o", color=BLACK, markersize=6, zorder=5)
    axes.annotate(
        name, point, textcoords="offset points", xytext=(0, -8), ha=side, va="top", fontsize=9
    )
