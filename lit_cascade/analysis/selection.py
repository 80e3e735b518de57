"""Selection of thresholds for a target on records, with or without a guarantee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_cascade.core import OperatingPoint, OperatingPoints, StageOutcomes
from lit_cascade.core.guarantee import (
    Candidates,
    Promise,
    candidates_of,
    certified,
    joint_thresholds,
    samples_needed,
    shared_candidates,
)
from lit_cascade.utilities.drawing import BLACK, BLUE, GREY, VERMILION, axes_of, quiet
from lit_cascade.utilities.tabular import Tabular, described, html_of
from lit_cascade.utilities.units import counted, unit_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TUNING_SHARE = 0.3
"""Fraction of the samples used to order the combinations of several thresholds."""


@dataclass(frozen=True)
class Selection(Tabular):
    """Selected thresholds and the candidates that they were selected from.

    Attributes:
        promise: what is promised.
        chosen: operating point of the policy; None if no useful candidate is certified.
        empirical: choice without a guarantee, which keeps the limit on these samples; None if no
            useful candidate does.
        candidates: what was tested, in order.
        certified: number of certified candidates.
        n: number of samples tested on.
        tuned_on: number of other samples, used to order the candidates.
        needed: estimated number of samples that would be enough, if none is chosen; None if no
            number would be.
    """

    promise: Promise
    chosen: OperatingPoint | None
    empirical: OperatingPoint | None
    candidates: Candidates
    certified: int
    n: int
    tuned_on: int
    needed: int | None

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per candidate, in testing order, as `Candidates.columns`, and `certified`."""
        certified = [row < self.certified for row in range(len(self.candidates))]
        return {**self.candidates.columns(), "certified": certified}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the target of every candidate against its cost, and the choices.

        If the cost itself is promised, the accuracy is drawn against it.

        Args:
            ax: axes to draw on; by default those of a new figure.

        Returns:
            The axes.
        """
        axes, candidates, promise = axes_of(ax), self.candidates, self.promise
        of_spending = promise.target in {"cost", "cost_ratio"}
        value = candidates.accuracy if of_spending else candidates.value
        ratio = candidates.cost_ratio
        order = ratio.sort(stable=True).indices
        axes.plot(
            ratio[order], 100 * value[order], color=GREY, linewidth=1.4,
            label="not certified" if promise.confidence is not None else "all thresholds", zorder=2,
        )  # fmt: skip
        if self.certified:
            kept = order[torch.isin(order, torch.arange(self.certified))]
            label = f"certified at {100 * (promise.confidence or 0):g} %"
            axes.plot(
                ratio[kept], 100 * value[kept], color=BLUE, linewidth=2.4, label=label, zorder=3
            )
        if promise.target == "cost_ratio":
            axes.axvline(promise.limit, color=BLACK, linestyle=":", linewidth=1.2)
        elif not of_spending:
            axes.axhline(100 * promise.limit, color=BLACK, linestyle=":", linewidth=1.2)
            axes.annotate(
                "limit", (1, 100 * promise.limit), xycoords=("axes fraction", "data"),
                xytext=(-4, 3), textcoords="offset points", ha="right", fontsize=8,
            )  # fmt: skip
        marks = [(self.empirical, "plain empirical choice", VERMILION, "X")]
        if promise.confidence is not None:
            marks.append((self.chosen, "the policy", BLUE, "*"))
        for choice, label, colour, marker in marks:
            if choice is not None:
                height = choice.accuracy if of_spending else choice.value or 0.0
                axes.plot(
                    choice.cost_ratio, 100 * height, marker, color=colour, markersize=11,
                    markeredgecolor="white", label=label, zorder=5,
                )  # fmt: skip
        axes.axvline(1, color=BLACK, linewidth=0.8, alpha=0.5)
        names, unit = candidates.outcomes.names, candidates.outcomes.unit
        last = repr(names[-1]) if names else "the last stage"
        axes.set_xlabel(f"{unit_label(unit)} of the cascade / of {last} alone")
        axes.set_ylabel("observed accuracy (%)" if of_spending else _AXES[promise.target])
        axes.legend(frameon=False, fontsize=8)
        quiet(axes)
        return axes

    def __repr__(self) -> str:
        promise, tested = self.promise, counted(len(self.candidates), "candidate")
        sure = (
            "without a guarantee"
            if promise.confidence is None
            else f"with {100 * promise.confidence:.3g} % confidence"
        )
        unit = self.candidates.outcomes.unit
        chosen = ["no policy qualifies"] if self.chosen is None else self.chosen.figures(unit)
        certified = "" if promise.confidence is None else f", {self.certified:,} of them certified"
        return described(
            "Selection",
            f"{promise.text(unit)} {sure}",
            *chosen,
            counted(self.n, "sample"),
            f"{tested}{certified}",
        )

    def _repr_html_(self) -> str:
        choices = {"policy": self.chosen, "plain empirical choice": self.empirical}
        points = OperatingPoints(choices, self.candidates.outcomes.unit)
        return html_of(repr(self), points.to_pandas())


_AXES = {
    "accuracy_drop": "observed accuracy drop (points)",
    "accuracy": "observed accuracy (%)",
    "disagreement": "observed disagreement (%)",
    "deferral_rate": "deferral rate (%)",
}


def select_thresholds(outcomes: StageOutcomes, promise: Promise, seed: int = 0) -> Selection:
    """Select the cheapest policy that keeps a promise, or the most accurate if it limits a cost.

    Args:
        outcomes: of the stages on a calibration set.
        promise: what is promised.
        seed: seed of the draw of samples that order several thresholds.

    Raises:
        CascadeError: labels or answers that the target needs are unknown, or NaN scores.

    Example:
        >>> right = torch.tensor([[True, True]] * 900 + [[False, True]] * 100)
        >>> scores = torch.linspace(1, 0, 1000)[:, None]
        >>> costs = torch.tensor([[1.0, 9.0]]).expand(1000, 2)
        >>> outcomes = StageOutcomes(scores, right, costs)
        >>> selection = select_thresholds(outcomes, Promise("accuracy_drop", 0.01))
        >>> selection.chosen.deferral_rate, selection.empirical.deferral_rate
        (0.096, 0.09)
    """
    n, tuned_on, guaranteed = len(outcomes), 0, promise.confidence is not None
    if outcomes.scores.shape[1] == 1:
        whole = candidates = shared_candidates(outcomes, promise)
    else:
        whole = candidates = candidates_of(outcomes, promise, joint_thresholds(outcomes, promise))
        if guaranteed:
            tuned_on = max(1, round(TUNING_SHARE * n))
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
            thresholds = joint_thresholds(outcomes.rows(order[:tuned_on]), promise)
            candidates = candidates_of(outcomes.rows(order[tuned_on:]), promise, thresholds)
    empirical = chosen = _best(whole, promise.keeps(whole.value))
    count, needed = 0, None
    if guaranteed:
        count = certified(candidates)
        chosen = _best(candidates, torch.arange(len(candidates)) < count)
        if chosen is None:
            needed = samples_needed(candidates)
        if needed is not None and tuned_on:
            needed = round(needed * n / len(candidates.outcomes))
    return Selection(
        promise=promise,
        chosen=chosen,
        empirical=empirical,
        candidates=candidates,
        certified=count,
        n=len(candidates.outcomes),
        tuned_on=tuned_on,
        needed=needed,
    )


def _best(candidates: Candidates, among: Tensor) -> OperatingPoint | None:
    """Return the best useful candidate among some, (M,) bool."""
    rows = (among & candidates.useful).nonzero().squeeze(1)
    if len(rows) == 0:
        return None
    cost, accuracy = candidates.cost, candidates.accuracy.nan_to_num(0.0)
    of_cost = candidates.promise.of_cost
    columns = (-accuracy, cost) if of_cost else (cost, -accuracy)
    if of_cost and candidates.outcomes.correct is None:
        columns = (-cost, -cost)  # without labels, spend all that is allowed
    for column in columns:
        rows = rows[column[rows] == column[rows].min()]
    return candidates.point(int(rows[0]))
