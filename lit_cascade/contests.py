"""How ways to make cascades fare against the single models, and against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lit_cascade.core.cascades import Cascades, evaluate
from lit_cascade.core.frontier import Band, Front, average_compute_reduction
from lit_cascade.core.heldout import HeldOut, held_out
from lit_cascade.core.search import SearchSettings
from lit_cascade.core.zoo import Zoo
from lit_cascade.protocol import Protocol, Rule

__all__ = [
    "Bands",
    "Contest",
    "Reduction",
    "contest_of",
    "on_parts",
    "reductions_of",
    "reported_points",
    "variants",
]

Bands = Callable[[Front], Sequence[Band]]
"""Bands of accuracies, from the single models' front."""

_RESAMPLES, _RESAMPLES_ALONE = 100, 1000


@dataclass(frozen=True)
class Reduction:
    """Average compute reductions of one way to make cascades, in one band.

    Attributes:
        band: of accuracies, on the samples of the choice.
        chosen: as defined, on the samples of the choice.
        interpolated: the same against the interpolated front of the single models.
        held_out: the same choice reported on other samples; None for bounds and expectations,
            which choose nothing.
    """

    band: Band
    chosen: float
    interpolated: float
    held_out: HeldOut | None


@dataclass(frozen=True)
class Contest:
    """A way to make cascades, and how it fares.

    Attributes:
        name: what to call it.
        points: costs and accuracies on the samples of the report; where those are others than the
            samples of the choice, no front any more.
        reductions: one per band.
    """

    name: str
    points: Front
    reductions: tuple[Reduction, ...]


def on_parts(bands: Bands, singles: Front) -> Bands:
    """Bands of parts of the samples: in a part one model may be both cheapest and most accurate."""
    whole = bands(singles)
    return lambda part: bands(part) if len(part) > 1 else whole


def contest_of(
    name: str,
    protocol: Protocol,
    rule: Rule,
    choose: Callable[[Zoo], Cascades],
    bands: Bands,
    zoos: tuple[Zoo, Zoo] | None = None,
    found: Cascades | None = None,
) -> Contest:
    """How one way to make cascades fares.

    Args:
        name: what to call it.
        protocol: the records.
        rule: how the cascades decide.
        choose: finds cascades in a zoo.
        bands: of accuracies, from the single models' front.
        zoos: what `protocol.zoos(rule)` gave, if it is at hand.
        found: what `choose` gave for the first of them, if it is at hand.
    """
    zoos = zoos or protocol.zoos(rule)
    all_found = found or choose(zoos[0])

    def once(zoo: Zoo) -> Cascades:
        return all_found if zoo is zoos[0] else choose(zoo)

    many = protocol.reported_on is None and protocol.holdout > 0
    results = held_out(
        protocol.trials(rule, zoos),
        once,
        on_parts(bands, zoos[0].singles()[0]),
        resamples=_RESAMPLES if many else _RESAMPLES_ALONE,
        seed=protocol.seed,
    )
    points = reported_points(all_found, zoos)
    return Contest(name, points, reductions_of(zoos[0], all_found.front, bands, results))


def reported_points(found: Cascades, zoos: tuple[Zoo, Zoo]) -> Front:
    """Costs and accuracies of cascades on the samples of the report, in the order of the choice."""
    if zoos[0] is zoos[1]:
        return found.front
    judged = [evaluate([point], zoos[1]) for point in found.points]
    return Front(
        torch.stack([one.cost.mean() for one in judged]),
        torch.stack([one.correct.double().mean() for one in judged]),
    )


def reductions_of(
    zoo: Zoo, front: Front, bands: Bands, results: Sequence[HeldOut | None] | None = None
) -> tuple[Reduction, ...]:
    """What a front saves against the single models, one per band.

    Args:
        zoo: the models on the samples of the choice.
        front: of cascades on them.
        bands: of accuracies, from the single models' front.
        results: the same held out, one per band; by default none is.
    """
    singles, _ = zoo.singles()
    wanted = bands(singles)
    return tuple(
        Reduction(
            band,
            average_compute_reduction(singles, front, band),
            average_compute_reduction(singles, front, band, interpolated=True),
            result,
        )
        for band, result in zip(wanted, results or [None] * len(wanted), strict=True)
    )


def variants(settings: SearchSettings) -> Mapping[str, tuple[Rule, SearchSettings]]:
    """Ways to decide that a search can compare, one change at a time."""
    pairs = SearchSettings(levels=settings.levels)
    window = SearchSettings(levels=settings.levels, window=64)
    triples = SearchSettings(levels=settings.levels, stages=3, candidates=settings.candidates)
    return {
        "max softmax, later answer (default)": (Rule(), pairs),
        "score: margin": (Rule(score="margin"), pairs),
        "score: negative entropy": (Rule(score="negative_entropy"), pairs),
        "calibrated": (Rule(calibrate=True), pairs),
        "combine: average": (Rule(combine="average"), pairs),
        "combine: average, calibrated": (Rule(combine="average", calibrate=True), pairs),
        "combine: most confident": (Rule(combine="most_confident"), pairs),
        "combine: most confident, calibrated": (
            Rule(combine="most_confident", calibrate=True),
            pairs,
        ),
        "window": (Rule(), window),
        "3 stages": (Rule(), triples),
        "3 stages, average, calibrated": (Rule(combine="average", calibrate=True), triples),
    }
