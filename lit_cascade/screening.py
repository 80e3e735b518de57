"""Which published models are worth recording: those on or near the front of single models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from lit_cascade.core.frontier import Front
from lit_cascade.errors import UsageError
from lit_cascade.published import PublishedModel, front_of, largest_sizes
from lit_cascade.units import unit_label

__all__ = ["Candidate", "Criteria", "Screen", "least_missed", "screen"]

# Accuracies are decimals of few digits: this absorbs rounding, so that 0.80 is within 0.01 of 0.81.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Criteria:
    """What is asked of a model.

    Attributes:
        low: the least accuracy.
        high: the greatest accuracy.
        max_cost: per sample.
        margin: how far below the front a model may be, as a share of right answers.
        models: patterns of which a name must match one; none allows all.
        exclude: patterns of which a name must match none.
        at_most: how many models to keep, or None for all.
        all_sizes: consider a model at every size that it is listed at, not only at the largest.

    Raises:
        UsageError: a value out of range.
    """

    low: float = 0.0
    high: float = 1.0
    max_cost: float = math.inf
    margin: float = 0.01
    models: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    at_most: int | None = None
    all_sizes: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.low < self.high <= 1:
            raise UsageError(
                "--accuracy: expected two shares with 0 <= low < high <= 1, such as 0.80:0.90, "
                f"got {self.low:g} to {self.high:g}."
            )
        if not self.max_cost > 0:
            raise UsageError(f"--max_cost: expected a cost above 0, got {self.max_cost:g}.")
        if not 0 <= self.margin < 1:
            raise UsageError(
                "--margin: expected a share of answers from 0 to below 1, such as 0.01 for one "
                f"point, got {self.margin:g}."
            )
        if self.at_most is not None and self.at_most < 1:
            raise UsageError(f"--at_most: expected at least 1, got {self.at_most}.")


@dataclass(frozen=True)
class Candidate:
    """A model that is worth recording.

    Attributes:
        model: as published.
        below: how far its accuracy is below that of the front at its cost; 0 on the front, and for
            a model that is as accurate as a cheaper one.
        on_front: whether no other model is cheaper and as accurate, or as cheap and more accurate.
    """

    model: PublishedModel
    below: float
    on_front: bool


@dataclass(frozen=True)
class Screen:
    """What a screening found.

    Attributes:
        pool: the models that match the patterns and cost no more than was allowed, one or more.
        front: of the pool, whatever the band of accuracies.
        in_band: how many of the pool are within that band.
        kept: one or more, in order of cost.
        cut: how many more would qualify, but for the number that was asked for.
        front_cut: how many of those are on the front.
    """

    pool: tuple[PublishedModel, ...]
    front: Front
    in_band: int
    kept: tuple[Candidate, ...]
    cut: int
    front_cut: int


def screen(models: Sequence[PublishedModel], criteria: Criteria, unit: str = "flops") -> Screen:
    """The models on the front of single models, and those that are below it by little.

    A model is kept if its accuracy is at least that of the best one that costs no more, less the
    margin: in a cascade a model that is a little worse alone may well be the better partner.

    Args:
        models: one or more, in any order.
        criteria: what is asked of them.
        unit: of their cost, for messages.

    Raises:
        UsageError: no model qualifies; the message says what would.

    Example:
        >>> table = [("a", 0.70, 1), ("b", 0.80, 4), ("c", 0.795, 5), ("d", 0.75, 6)]
        >>> models = [PublishedModel(name, None, share, cost) for name, share, cost in table]
        >>> [(kept.model.name, kept.on_front) for kept in screen(models, Criteria()).kept]
        [('a', True), ('b', True), ('c', False)]
    """
    pool = _pool(models, criteria, unit)
    front = front_of(pool)
    band = [model for model in pool if criteria.low <= model.accuracy <= criteria.high]
    if not band:
        raise UsageError(_no_accuracy(sorted(model.accuracy for model in pool), criteria))
    candidates = _judged(band, front)
    near = [found for found in candidates if found.below <= criteria.margin + _TOLERANCE]
    if not near:
        best = min(candidates, key=_order)
        enough = math.ceil(1e4 * best.below) / 1e4
        raise UsageError(
            f"--margin: none of {len(band)} models with an accuracy from {criteria.low:g} to "
            f"{criteria.high:g} is within {criteria.margin:g} of the front; the nearest, "
            f"{best.model.name!r}, would be with --margin {enough:g}."
        )
    kept = _picked(near, len(near) if criteria.at_most is None else criteria.at_most)
    on_front = sum(found.on_front for found in near)
    return Screen(
        tuple(pool),
        front,
        len(band),
        tuple(sorted(kept, key=lambda found: (found.model.cost, *_order(found)))),
        len(near) - len(kept),
        on_front - sum(found.on_front for found in kept),
    )


def _pool(models: Sequence[PublishedModel], criteria: Criteria, unit: str) -> list[PublishedModel]:
    for argument, patterns in (("--models", criteria.models), ("--exclude", criteria.exclude)):
        for pattern in patterns:
            if not any(_matches(model.name, [pattern]) for model in models):
                raise UsageError(
                    f"{argument}: {pattern!r} matches none of {len(models)} published models, "
                    f"such as {models[0].name!r}; * stands for any letters, as in 'resnet*'."
                )
    largest = {} if criteria.all_sizes else largest_sizes(models)
    named = [
        model
        for model in models
        if (model.img_size or 0) >= largest.get(model.name, 0)
        and (not criteria.models or _matches(model.name, criteria.models))
        and not _matches(model.name, criteria.exclude)
    ]
    if not named:
        raise UsageError("--exclude: no model is left; leave out a pattern.")
    pool = [model for model in named if model.cost <= criteria.max_cost]
    if not pool:
        least = min(named, key=lambda model: model.cost)
        raise UsageError(
            f"--max_cost: none of {len(named)} models costs at most {criteria.max_cost:g} "
            f"{unit_label(unit)}; the cheapest, {least.name!r}, costs {least.cost:g}."
        )
    return pool


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether the name, or the architecture before its tag, matches a pattern."""
    architecture = name.partition(".")[0]
    return any(fnmatchcase(name, p) or fnmatchcase(architecture, p) for p in patterns)


def _no_accuracy(reached: Sequence[float], criteria: Criteria) -> str:
    """That no model is in the band, and where the nearest are."""
    under = [accuracy for accuracy in reached if accuracy < criteria.low]
    over = [accuracy for accuracy in reached if accuracy > criteria.high]
    between = f", none between {under[-1]:.4f} and {over[0]:.4f}" if under and over else ""
    return (
        f"--accuracy: none of {len(reached)} models has an accuracy from {criteria.low:g} to "
        f"{criteria.high:g}; they reach from {reached[0]:.4f} to {reached[-1]:.4f}{between}."
    )


def _judged(models: Sequence[PublishedModel], front: Front) -> list[Candidate]:
    cost = torch.tensor([model.cost for model in models], dtype=torch.float64)
    step = torch.searchsorted(front.cost, cost, right=True) - 1  # the pool has the models: never -1
    costs, best = front.cost[step].tolist(), front.accuracy[step].tolist()
    return [
        Candidate(
            model, accuracy - model.accuracy, (least, accuracy) == (model.cost, model.accuracy)
        )
        for model, least, accuracy in zip(models, costs, best, strict=True)
    ]


def _order(found: Candidate) -> tuple[bool, float, float, str, int]:
    """Front first, then by the distance to it; the rest makes the order certain."""
    model = found.model
    return (not found.on_front, found.below, model.cost, model.name, model.img_size or 0)


def _picked(near: Sequence[Candidate], at_most: int) -> list[Candidate]:
    ranked = sorted(near, key=_order)
    front = [found for found in ranked if found.on_front]
    if len(front) <= at_most:
        return ranked[:at_most]
    front.sort(key=lambda found: found.model.cost)
    points = [(found.model.cost, found.model.accuracy) for found in front]
    return [front[place] for place in least_missed(points, at_most)]


def least_missed(points: Sequence[tuple[float, float]], count: int) -> list[int]:
    """Places of the points of a front that keep its shape.

    One after the other goes the point that the front misses least: accuracy is lost up to the next
    dearer point, so what is missed is that gain times the step in the logarithm of the cost. The
    two ends stay; where only one may, it is the most accurate.

    Args:
        points: (cost, accuracy) in order of cost, costs above 0.
        count: of places, from 1 to the number of points.

    Example:
        >>> least_missed([(1, 0.5), (2, 0.7), (4, 0.701), (8, 0.8)], 3)
        [0, 1, 3]
    """
    places = list(range(len(points)))

    def missed(at: int) -> float:
        (_, before), (cost, accuracy), (after, _) = (points[places[at + k]] for k in (-1, 0, 1))
        return (accuracy - before) * math.log(after / cost)

    while len(places) > max(count, 2):
        del places[min(range(1, len(places) - 1), key=missed)]
    return places[-count:]
