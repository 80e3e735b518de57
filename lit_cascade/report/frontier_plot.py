"""The picture of a search: single models, their front, and the cascades' fronts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_cascade.analysis import Frontier
from lit_cascade.core.search import Front
from lit_cascade.report.pictures import figure_of, png_of, quiet
from lit_cascade.utilities.units import cost_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_frontier"]

_BLACK, _GREY = "#222222", "#8a8a8a"
# safe for the colour-blind; bounds and expectations are drawn lighter than what can be had
_FOUND = ("#0072b2", "-", 2.0)
_LOOKS = {
    "cascades of up to 2": ("#56b4e9", "-", 1.4),
    "cascades of up to 2, no window": ("#56b4e9", "-", 1.4),
    "neighbouring pairs only": ("#009e73", "-.", 1.2),
    "one threshold for all pairs": ("#d55e00", "--", 1.2),
    "random deferral": (_GREY, "--", 1.2),
    "oracle deferral (bound)": (_BLACK, ":", 1.2),
}
_LABELLED = 30
_FEW = 60


def _draw(axes: Axes, points: Front, label: str, look: tuple[str, str, float], steps: str) -> None:
    colour, style, width = look
    axes.plot(
        points.cost, 100 * points.accuracy, style, drawstyle=steps, color=colour, label=label,
        linewidth=width, zorder=3,
    )  # fmt: skip


def draw_frontier(found: Frontier, published: Front | None = None) -> bytes:
    """Accuracy against cost as a PNG, on a logarithmic axis of cost.

    Args:
        found: what the search found.
        published: front of published models to draw beside it.

    Returns:
        The content of the PNG file.
    """
    figure = figure_of(7.2, 5.0)
    axes = figure.add_subplot()
    chosen_on = found.protocol.chosen_on
    where = found.protocol.reported_on or chosen_on
    # a step holds an accuracy until the next point is paid for: nothing between points exists. On
    # other samples than those of the choice an accuracy may fall where it was to rise.
    steps = "default" if found.apart else "steps-post"
    for number, contest in enumerate(found.contests):
        chosen = contest.reductions[0].held_out is not None
        look = _LOOKS[contest.name] if number else _FOUND
        if found.apart and chosen and len(contest.points) < _FEW:
            look = (look[0], "x", look[2])  # a line would promise what lies between
        _draw(axes, contest.points, contest.name, look, steps if chosen else "steps-post")
    _draw(axes, found.singles, "single models", (_BLACK, "-", 1.2), "steps-post")
    if published is not None:
        _draw(axes, published, "published single models", (_GREY, "-.", 1.2), "steps-post")
    axes.set_xscale("log")
    low, high = 100 * float(found.zoo.accuracy.min()), 100 * float(found.reported.accuracy.max())
    room = 0.06 * max(high - low, 1.0)
    axes.set_ylim(low - room, high + 2 * room)
    _mark_models(axes, found)
    axes.set_xlabel(cost_axis(chosen_on.unit))
    axes.set_ylabel("accuracy (%)")
    quiet(axes, "both")
    axes.margins(x=0.08)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    name, split = where.data.get("name") or "records", where.data.get("split")
    axes.set_title(
        f"{len(found.zoo)} models on {name}{f', split {split!r}' if split else ''} "
        f"({found.zoo.n:,} samples)",
        fontsize=10,
    )
    return png_of(figure)


def _mark_models(axes: Axes, found: Frontier) -> None:
    """A dot per model; names where there are few enough to be read, else those of the front."""
    cost, accuracy = found.zoo.mean_cost.tolist(), (100 * found.zoo.accuracy).tolist()
    axes.plot(cost, accuracy, "o", color=_BLACK, markersize=4, zorder=5)
    named = range(len(cost)) if len(cost) <= _LABELLED else found.zoo.singles()[1]
    for model in named:
        axes.annotate(
            found.zoo.names[model],
            (cost[model], accuracy[model]),
            textcoords="offset points",
            xytext=(5, -9),
            fontsize=7,
        )
