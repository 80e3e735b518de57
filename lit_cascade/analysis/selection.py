"""Selection of thresholds for a target on records, with or without a guarantee."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core import OperatingPoint, StageOutcomes
from lit_cascade.core.guarantee import (
    Candidates,
    Promise,
    candidates_of,
    certified,
    joint_thresholds,
    samples_needed,
    shared_candidates,
)

TUNING_SHARE = 0.3
"""Fraction of the samples used to order the combinations of several thresholds."""


@dataclass(frozen=True)
class Selection:
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
