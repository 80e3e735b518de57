"""What a search over records finds: a front, its baselines beside it, and cascades to keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lit_cascade.contests import Bands, Contest, contest_of, on_parts, reductions_of
from lit_cascade.core.baselines import (
    neighbour_pairs,
    oracle_pairs,
    random_pairs,
    shared_threshold,
)
from lit_cascade.core.cascades import Cascades, OnePoint
from lit_cascade.core.frontier import Front, average_compute_reduction, default_bands
from lit_cascade.core.pairs import Progress
from lit_cascade.core.search import SearchSettings, search
from lit_cascade.core.zoo import Zoo
from lit_cascade.protocol import Protocol, Rule

__all__ = ["Frontier", "Pick", "frontier_of"]

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
