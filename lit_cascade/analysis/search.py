"""How ways to make cascades fare against the single models, and against each other.

What a search over records finds: a front, its baselines beside it, and cascades to keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lit_cascade.analysis.protocol import Protocol, Rule
from lit_cascade.core.search import (
    Band,
    Cascades,
    Front,
    HeldOut,
    OnePoint,
    Progress,
    SearchSettings,
    Zoo,
    average_compute_reduction,
    default_bands,
    evaluate,
    held_out,
    neighbour_pairs,
    oracle_pairs,
    random_pairs,
    search,
    shared_threshold,
)

__all__ = [
    "Bands",
    "Contest",
    "Frontier",
    "Pick",
    "Reduction",
    "contest_of",
    "frontier_of",
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


_PICKS = 12


@dataclass(frozen=True)
class Pick:
    """A cascade worth keeping: the cheapest that is as accurate as some single model.

    Attributes:
        point: stages, thresholds, cost and accuracy on the samples of the choice.
        cost: mean cost per sample on the samples of the report.
        accuracy: on the samples of the report.
        single: the model that it was to be as accurate as, which is the cheapest such; for the most
            accurate cascade of all, the most accurate model.
        saving: how many times less than that model it costs, on the samples of the report.
        difference: its accuracy less that model's, on the samples of the report.
    """

    point: OnePoint
    cost: float
    accuracy: float
    single: str
    saving: float
    difference: float


@dataclass(frozen=True)
class Frontier:
    """Everything that a search found.

    Attributes:
        protocol: the records.
        rule: how the cascades decide.
        settings: how widely the search went.
        temperatures: one per model.
        zoo: the models on the samples of the report.
        cascades: the front on the samples of the choice.
        reported: its points on the samples of the report, (P,).
        singles: front of the single models on the samples of the report.
        contests: the search first, then its baselines.
        picks: cascades worth keeping.
        shared: the threshold of the baseline that has one for all.
    """

    protocol: Protocol
    rule: Rule
    settings: SearchSettings
    temperatures: tuple[float, ...]
    zoo: Zoo
    cascades: Cascades
    reported: Front
    singles: Front
    contests: tuple[Contest, ...]
    picks: tuple[Pick, ...]
    shared: float

    @property
    def apart(self) -> bool:
        """Whether the report is on other samples than the choice."""
        return self.protocol.reported_on is not None


def frontier_of(
    protocol: Protocol,
    rule: Rule | None = None,
    settings: SearchSettings | None = None,
    bands: Bands = default_bands,
    progress: Progress | None = None,
) -> Frontier:
    """Search records, and put what is found beside its baselines.

    Args:
        protocol: the records.
        rule: how the cascades decide.
        settings: how widely and finely to search.
        bands: of accuracies, from the single models' front on the samples of the choice.
        progress: is told how much of the first search is done.

    Raises:
        UsageError: a band above every model.
        CascadeError: records without what the rule needs.
    """
    rule, settings = rule or Rule(), settings or SearchSettings()
    zoos = protocol.zoos(rule)
    chosen_on, reported_on = zoos
    singles, _ = chosen_on.singles()
    wanted = bands(singles)
    for band in wanted:  # before the work: a band may be out of reach
        average_compute_reduction(singles, singles, band)
    found = search(chosen_on, settings, progress)
    levels = settings.thresholds_for(chosen_on)
    pairs = SearchSettings(levels=settings.levels)

    bands_of = on_parts(bands, singles)

    def shared(zoo: Zoo) -> Cascades:
        return shared_threshold(zoo, bands_of(zoo.singles()[0])[0])[0]

    window = ", window" if settings.window else ""
    ways: dict[str, Callable[[Zoo], Cascades]] = {
        f"cascades of up to {settings.stages}{window}": lambda zoo: search(zoo, settings)
    }
    if settings.stages > 2 or settings.window:
        plain = "cascades of up to 2" + (", no window" if settings.window else "")
        ways[plain] = lambda zoo: search(zoo, pairs)
    ways["neighbouring pairs only"] = lambda zoo: neighbour_pairs(zoo, levels)
    ways["one threshold for all pairs"] = shared
    with_one, threshold = shared_threshold(chosen_on, wanted[0])
    at_hand = {next(iter(ways)): found, "one threshold for all pairs": with_one}
    contests = [
        contest_of(name, protocol, rule, choose, bands, zoos, at_hand.get(name))
        for name, choose in ways.items()
    ]
    unchosen = {"random deferral": random_pairs, "oracle deferral (bound)": oracle_pairs}
    contests += [
        Contest(name, front(reported_on), reductions_of(chosen_on, front(chosen_on), bands))
        for name, front in unchosen.items()
    ]
    reported = contests[0].points
    return Frontier(
        protocol=protocol,
        rule=rule,
        settings=settings,
        temperatures=protocol.temperatures(rule),
        zoo=reported_on,
        cascades=found,
        reported=reported,
        singles=reported_on.singles()[0],
        contests=tuple(contests),
        picks=tuple(_picks(zoos, found, reported)),
        shared=threshold,
    )


def _picks(zoos: tuple[Zoo, Zoo], found: Cascades, reported: Front) -> list[Pick]:
    chosen_on, reported_on = zoos
    singles, models = chosen_on.singles()
    # the last stands for the most accurate cascade of all
    wanted = [*zip(singles.accuracy.tolist(), models, strict=True)]
    wanted.append((found.points[-1].accuracy, models[-1]))
    if len(wanted) > _PICKS:
        some = torch.linspace(0, len(wanted) - 1, _PICKS).round().long().tolist()
        wanted = [wanted[i] for i in some]
    picks: dict[OnePoint, Pick] = {}
    for accuracy, model in wanted:
        point = found.cheapest(accuracy)
        if point is None or point in picks:
            continue
        row = found.points.index(point)
        cost, reached = float(reported.cost[row]), float(reported.accuracy[row])
        picks[point] = Pick(
            point=point,
            cost=cost,
            accuracy=reached,
            single=chosen_on.names[model],
            saving=float(reported_on.mean_cost[model]) / cost if cost else math.inf,
            difference=reached - float(reported_on.accuracy[model]),
        )
    return list(picks.values())
