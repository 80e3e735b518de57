"""The picture of a choice: what was tested, what qualified, and the price of the promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lit_cascade.analysis import Choice, Selection
from lit_cascade.report.pictures import figure_of, png_of, quiet
from lit_cascade.report.selection import Subject, promise_text
from lit_cascade.utilities.units import unit_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_selection"]

_BLUE, _ORANGE, _GREY, _BLACK = "#0072b2", "#d55e00", "#8a8a8a", "#222222"

_AXES = {
    "accuracy_drop": "observed accuracy drop (points)",
    "accuracy": "observed accuracy (%)",
    "disagreement": "observed disagreement (%)",
    "deferral_rate": "deferral rate (%)",
}


def draw_selection(found: Selection, subject: Subject) -> bytes:
    """The target against the cost of every policy that was looked at, as a PNG.

    Args:
        found: the choice.
        subject: what it is of.

    Returns:
        The content of the PNG file.
    """
    figure = figure_of(6.4, 4.2)
    axes = figure.add_subplot()
    path, promise = found.path, found.promise
    of_spending = promise.target in {"cost", "cost_ratio"}
    scale = 100.0
    # where the cost itself is promised, it is the accuracy that a reader weighs it against
    value = path.accuracy if of_spending else path.value
    ratio = path.cost / path.behaviour.last_cost
    order = ratio.sort(stable=True).indices
    axes.plot(
        ratio[order], scale * value[order], color=_GREY, linewidth=1.4,
        label="not certified" if promise.confidence is not None else "all thresholds", zorder=2,
    )  # fmt: skip
    if found.certified:
        kept = order[torch.isin(order, torch.arange(found.certified))]
        label = f"certified at {100 * (promise.confidence or 0):g} %"
        axes.plot(
            ratio[kept], scale * value[kept], color=_BLUE, linewidth=2.4, label=label, zorder=3
        )
    if promise.target == "cost_ratio":
        axes.axvline(promise.limit, color=_BLACK, linestyle=":", linewidth=1.2)
    elif not of_spending:
        axes.axhline(scale * promise.limit, color=_BLACK, linestyle=":", linewidth=1.2)
        axes.annotate(
            "limit", (1, scale * promise.limit), xycoords=("axes fraction", "data"),
            xytext=(-4, 3), textcoords="offset points", ha="right", fontsize=8,
        )  # fmt: skip
    _mark(axes, found.empirical, "plain empirical choice", _ORANGE, "X", of_spending=of_spending)
    if promise.confidence is not None:
        _mark(axes, found.chosen, "the policy", _BLUE, "*", of_spending=of_spending)
    axes.axvline(1, color=_BLACK, linewidth=0.8, alpha=0.5)
    axes.set_xlabel(f"{unit_label(subject.unit)} of the cascade / of {subject.names[-1]!r} alone")
    axes.set_ylabel("observed accuracy (%)" if of_spending else _AXES[promise.target])
    title = f"{promise_text(promise, subject.unit)}: {' → '.join(subject.names)}"
    axes.set_title(f"{title} ({found.n:,} samples)", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    quiet(axes)
    return png_of(figure)


def _mark(
    axes: Axes, choice: Choice | None, label: str, colour: str, marker: str, *, of_spending: bool
) -> None:
    if choice is None:
        return
    axes.plot(
        choice.cost_ratio, 100 * (choice.accuracy if of_spending else choice.value), marker,
        color=colour, markersize=11, markeredgecolor="white", label=label, zorder=5,
    )  # fmt: skip
