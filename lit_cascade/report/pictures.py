"""What all pictures begin and end with: a figure without a window, quiet axes, a PNG in memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["figure_of", "png_of", "quiet"]


def figure_of(width: float, height: float) -> Figure:
    """A figure of a size in inches, drawn without any window system."""
    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: Figure) -> bytes:
    """The content of a PNG file; the same for the same figure, whatever drew it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def quiet(axes: Axes, which: Literal["major", "minor", "both"] = "major") -> None:
    """A faint grid, and no frame above or at the right."""
    axes.grid(visible=True, which=which, alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
