"""Thresholds for a target, chosen on records, with evidence or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.analysis.curve import judge
from lit_cascade.core import Policy, above_floor, stage_outputs
from lit_cascade.core.guarantee import (
    Behaviour,
    Path,
    Promise,
    certified,
    joint_path,
    path_of,
    samples_needed,
    threshold_path,
)
from lit_cascade.records import Record, check_alike

__all__ = ["Choice", "Selection", "behaviour_of", "select_thresholds"]

TUNING_SHARE = 0.3
"""Share of the samples on which several thresholds are put in an order to be tested in."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Choice:
    """A policy, and what the samples that it was chosen on say of it.

    Attributes:
        thresholds: of the deferring stages.
        value: of the promise's target.
        accuracy: share of right answers; NaN without labels.
        deferral_rate: share of the samples that the first stage does not answer.
        cost: mean cost per sample.
        cost_ratio: the same over the cost of the last stage alone.
        below: of one threshold, the next smaller score: thresholds above it do the same.
    """

    thresholds: tuple[float, ...]
    value: float
    accuracy: float
    deferral_rate: float
    cost: float
    cost_ratio: float
    below: float | None = None


@dataclass(frozen=True)
class Selection:
    """What was chosen, and what could be.

    Attributes:
        promise: that is to be kept.
        chosen: the policy; None where none that is worth having qualifies.
        empirical: the plain choice, which keeps to the target on these samples and promises
            nothing.
        path: what was tested, in order.
        certified: how many policies of the path qualify.
        n: number of samples tested on.
        tuned_on: number of other samples, on which the path was made.
        needed: about how many samples would do, where none is chosen; None if no number would.
    """

    promise: Promise
    chosen: Choice | None
    empirical: Choice | None
    path: Path
    certified: int
    n: int
    tuned_on: int
    needed: int | None


def behaviour_of(records: Sequence[Record], rule: Policy, unit: str = "flops") -> Behaviour:
    """What the stages of a cascade do on the samples of their records.

    Args:
        records: one per stage, cheapest first.
        rule: score, temperatures, combination and floors; its thresholds are not read.
        unit: of the cost.

    Raises:
        UsageError: as for `judge`.
        CascadeError: as for `judge`.
    """
    check_alike(records)
    whole = all(record.logits is not None for record in records)
    if whole and records[0].labels is None:
        return _without_labels(records, rule, unit)
    judged = judge(records, rule, unit, "accuracy" if whole else None)
    agrees = None
    if judged.answers is not None:
        agrees = judged.answers.after == judged.answers.alone[:, -1:]
    return Behaviour(judged.scores, judged.costs, judged.correct, judged.alone[:, -1], agrees)


def _without_labels(records: Sequence[Record], rule: Policy, unit: str) -> Behaviour:
    logits = [record.logits for record in records if record.logits is not None]
    scores, own, after = stage_outputs(logits, rule)
    deferring = zip(scores[:-1], rule.floors, strict=True)
    return Behaviour(
        scores=torch.stack([above_floor(score, floor) for score, floor in deferring], dim=1),
        costs=torch.stack([record.cost(unit) for record in records], dim=1),
        agrees=torch.stack(after, dim=1) == own[-1][:, None],
    )


def select_thresholds(behaviour: Behaviour, promise: Promise, seed: int = 0) -> Selection:
    """Choose the policy that keeps a promise: the cheapest, or where it limits cost the best.

    Args:
        behaviour: of the stages on a calibration set.
        promise: to be kept.
        seed: of the drawing of samples on which several thresholds are put in order.

    Raises:
        CascadeError: labels or answers that the target needs are unknown, or NaN scores.

    Example:
        >>> right = torch.tensor([[True, True]] * 900 + [[False, True]] * 100)
        >>> scores = torch.linspace(1, 0, 1000)[:, None]
        >>> costs = torch.tensor([[1.0, 9.0]]).expand(1000, 2)
        >>> there = Behaviour(scores, costs, right, right[:, 1])
        >>> found = select_thresholds(there, Promise("accuracy_drop", 0.01))
        >>> found.chosen.deferral_rate, found.empirical.deferral_rate
        (0.096, 0.09)
    """
    n, several = len(behaviour), behaviour.scores.shape[1] > 1
    if not several:
        whole = path = threshold_path(behaviour, promise)
        tuned_on = 0
    else:
        whole = path_of(behaviour, promise, joint_path(behaviour, promise))
        path, tuned_on = whole, 0
        if promise.confidence is not None:
            tuned_on = max(1, round(TUNING_SHARE * n))
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
            thresholds = joint_path(behaviour.rows(order[:tuned_on]), promise)
            path = path_of(behaviour.rows(order[tuned_on:]), promise, thresholds)
    kept = promise.keeps(whole.value)
    empirical = _choice(whole, promise, kept)
    count = certified(path, promise) if promise.confidence is not None else 0
    among = torch.arange(len(path)) < count
    chosen = empirical if promise.confidence is None else _choice(path, promise, among)
    needed = None
    if chosen is None and promise.confidence is not None:
        needed = samples_needed(path, promise, _worth_having(path))
        if needed is not None and tuned_on:
            needed = round(needed * n / len(path.behaviour))
    return Selection(
        promise=promise,
        chosen=chosen,
        empirical=empirical,
        path=path,
        certified=count,
        n=len(path.behaviour),
        tuned_on=tuned_on,
        needed=needed,
    )


def _worth_having(path: Path) -> Tensor:
    """Which policies cost less than the last stage alone."""
    return path.cost < path.behaviour.last_cost * (1 - _ROUNDING)


def _choice(path: Path, promise: Promise, among: Tensor) -> Choice | None:
    rows = (among & _worth_having(path)).nonzero().squeeze(1)
    if len(rows) == 0:
        return None
    quality = path.accuracy.nan_to_num(0.0)
    columns = (-quality, path.cost) if promise.of_cost else (path.cost, -quality)
    if promise.of_cost and bool(path.accuracy.isnan().all()):
        columns = (-path.cost, -path.cost)  # without labels, all that may be spent
    for column in columns:
        rows = rows[column[rows] == column[rows].min()]
    row = int(rows[0])
    thresholds = path.thresholds[row]
    return Choice(
        thresholds=tuple(thresholds.tolist()),
        value=float(path.value[row]),
        accuracy=float(path.accuracy[row]),
        deferral_rate=float(path.deferral_rate[row]),
        cost=float(path.cost[row]),
        cost_ratio=float(path.cost[row]) / path.behaviour.last_cost,
        below=_below(path.behaviour, float(thresholds[0])) if len(thresholds) == 1 else None,
    )


def _below(behaviour: Behaviour, threshold: float) -> float:
    scores = behaviour.scores[:, 0].double()
    lower = scores[scores < threshold]
    return float(lower.max()) if len(lower) else float("-inf")
