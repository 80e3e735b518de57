"""Searches over records: the front, its baselines, and cascades worth keeping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

from lit_cascade.analysis.curve import policy_for
from lit_cascade.analysis.evidence import fitted_on
from lit_cascade.analysis.protocol import DecisionRule, SearchProtocol, protocol_of
from lit_cascade.analysis.savings import costs_evidence
from lit_cascade.core import AGREEMENT, LEARNED, MAX_LOGIT_PNORM, Policy
from lit_cascade.core.search import (
    Band,
    CascadeFront,
    CascadePoint,
    Choose,
    Front,
    HeldOut,
    HeldOutSaving,
    Progress,
    SearchSettings,
    Zoo,
    average_compute_reduction,
    default_bands,
    evaluate_points,
    held_out_each,
    neighbour_pairs,
    oracle_pairs,
    random_pairs,
    search_zoo,
    shared_threshold,
)
from lit_cascade.errors import UsageError
from lit_cascade.options import Norm, Share
from lit_cascade.records import RecordLike, read_costs
from lit_cascade.utilities.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    SKY_BLUE,
    VERMILION,
    axes_of,
    name_points,
)
from lit_cascade.utilities.tabular import Tabular, described, listed
from lit_cascade.utilities.units import counted, unit_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bands = Callable[[Front], Sequence[Band]]
"""Maps the single models' front to bands of accuracies."""

_RESAMPLES, _RESAMPLES_ALONE = 100, 1000
_PICKS = 12
_WINDOW = 64
_SHARED = "one threshold for all pairs"


@dataclass(frozen=True)
class Reduction:
    """Average compute reductions of a strategy in one band.

    Attributes:
        band: accuracies on the samples of the choice.
        chosen: reduction on the samples of the choice.
        interpolated: the same against the interpolated front of the single models.
        held_out: the same choice reported on other samples; None for bounds and expectations, which
            choose nothing.
    """

    band: Band
    chosen: float
    interpolated: float
    held_out: HeldOut | None


@dataclass(frozen=True)
class Strategy:
    """A strategy for making cascades, and its results.

    Attributes:
        name: name in tables.
        points: costs and accuracies on the samples of the report; not a front if those differ from
            the samples of the choice.
        reductions: one per band.
        savings: held-out comparisons with single models, where they were asked for.
    """

    name: str
    points: Front
    reductions: tuple[Reduction, ...]
    savings: tuple[HeldOutSaving, ...] = ()


@dataclass(frozen=True)
class Pick:
    """A cascade worth keeping: the cheapest that is as accurate as some single model.

    Attributes:
        point: stages, thresholds, cost and accuracy on the samples of the choice.
        cost: mean cost per sample on the samples of the report.
        accuracy: accuracy on the samples of the report.
        single: the cheapest such model; for the most accurate cascade, the most accurate model.
        saving: cost of that model over that of the cascade, on the samples of the report.
        saved: cost of that model less that of the cascade, per sample of the report.
        difference: accuracy less that model's, on the samples of the report.
        held_out: the same where the cascade that promises that model's accuracy is chosen on other
            samples than those of the report. None for the most accurate cascade, and where nothing
            is held out.
    """

    point: CascadePoint
    cost: float
    accuracy: float
    single: str
    saving: float
    saved: float
    difference: float
    held_out: HeldOutSaving | None


@dataclass(frozen=True)
class SearchResult(Tabular):
    """Result of a search over records.

    Attributes:
        protocol: the records.
        rule: how the cascades decide.
        settings: extent and resolution of the search.
        bands: maps the single models' front to bands of accuracies.
        temperatures: one per model.
        norms: one per model if the score is `max_logit_pnorm`, and none otherwise.
        zoo: the models on the samples of the report.
        cascades: the front on the samples of the choice.
        reported: its points on the samples of the report, (P,).
        singles: front of the single models on the samples of the report.
        strategies: the search first, then its baselines.
        picks: cascades worth keeping.
        shared: threshold of the baseline that shares one among all pairs.
    """

    protocol: SearchProtocol
    rule: DecisionRule
    settings: SearchSettings
    bands: Bands
    temperatures: tuple[float, ...]
    norms: tuple[Norm, ...]
    zoo: Zoo
    cascades: CascadeFront
    reported: Front
    singles: Front
    strategies: tuple[Strategy, ...]
    picks: tuple[Pick, ...]
    shared: float

    @property
    def apart(self) -> bool:
        """Whether the report is on other samples than the choice."""
        return self.protocol.reported_on is not None

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per point of the front, as in `frontier.csv`.

        The cost, named after its unit, `accuracy`, `stages` and `thresholds`, and with a window
        `floors`. If the choice was made on other samples, `chosen_flops` and `chosen_accuracy` hold
        the figures of those samples.
        """
        unit, points = self.protocol.chosen_on.unit, self.cascades.points
        columns: dict[str, Sequence[Any]] = {
            unit: self.reported.cost.tolist(),
            "accuracy": self.reported.accuracy.tolist(),
            "stages": [tuple(self.zoo.names[model] for model in one.stages) for one in points],
            "thresholds": [point.thresholds for point in points],
        }
        if self.settings.window:
            columns["floors"] = [point.floors for point in points]
        if self.apart:
            columns[f"chosen_{unit}"] = [point.cost for point in points]
            columns["chosen_accuracy"] = [point.accuracy for point in points]
        return columns

    def policy(self, row: int) -> Policy:
        """The policy of a cascade on the front, with the evidence for its thresholds.

        Args:
            row: of the front, as in `to_pandas`.

        Raises:
            UsageError: no such row, or one of a single model.
        """
        points, rule, chosen = self.cascades.points, self.rule, self.protocol.chosen_on
        if not 0 <= row < len(points):
            raise UsageError(f"row: expected one from 0 to {len(points) - 1}, got {row}.")
        point = points[row]
        names = tuple(self.zoo.names[model] for model in point.stages)
        if len(names) < 2:
            raise UsageError(
                f"row: {row} is the model {names[0]!r} alone, which needs no policy; expected one "
                "with two or more stages."
            )
        records = [chosen.record(chosen.models[model]) for model in point.stages]
        evidence = fitted_on(records)
        policy = Policy(
            point.thresholds,
            score=rule.score,
            temperatures=[self.temperatures[model] for model in point.stages],
            combine=rule.combine,
            floors=point.floors,
            norms=[self.norms[model] for model in point.stages[:-1] if self.norms],
            names=names,
            evidence={
                **dict.fromkeys(
                    ["thresholds", *(name for name, fitted in rule.fitted.items() if fitted)],
                    evidence,
                ),
                "costs": costs_evidence(chosen.unit, names, self.zoo.mean_cost[list(point.stages)]),
            },
        )
        return policy_for(records, policy)

    def plot(self, ax: Axes | None = None, *, published: Front | None = None) -> Axes:
        """Draw accuracy against cost: the front, its baselines and the models.

        Args:
            ax: axes to draw on; by default those of a new figure.
            published: front of published models, to draw beside.

        Returns:
            The axes.
        """
        axes, unit = axes_of(ax), self.protocol.chosen_on.unit
        for number, strategy in enumerate(self.strategies):
            colour, line, width = _LOOKS[strategy.name] if number else _FOUND
            style: dict[str, Any] = {"linestyle": line, "linewidth": width}
            elsewhere = self.apart and strategy.reductions[0].held_out is not None
            if elsewhere:
                # on other samples than those of the choice accuracy need not rise
                style["drawstyle"] = "default"
            few = elsewhere and len(strategy.points) < _FEW
            if few or strategy.name == _SHARED:  # a line would suggest points in between
                style |= {"linestyle": "none", "marker": "x"}
            strategy.points.plot(axes, unit=unit, color=colour, label=strategy.name, **style)
        thin: dict[str, Any] = {"linewidth": 1.2, "unit": unit}
        self.singles.plot(axes, color=BLACK, label="single models", **thin)
        if published is not None:
            label = "published single models"
            published.plot(axes, color=GREY, linestyle="-.", label=label, **thin)
        low, high = 100 * float(self.zoo.accuracy.min()), 100 * float(self.reported.accuracy.max())
        room = 0.06 * max(high - low, 1.0)
        axes.set_ylim(low - room, high + 2 * room)
        cost, accuracy = self.zoo.mean_cost.tolist(), (100 * self.zoo.accuracy).tolist()
        axes.plot(cost, accuracy, "o", color=BLACK, markersize=4, zorder=5)
        axes.margins(x=0.08)
        axes.legend(frameon=False, loc="lower right", fontsize=8)
        order = sorted(
            range(len(cost)) if len(cost) <= _LABELLED else self.zoo.singles()[1],
            key=lambda model: -accuracy[model],
        )
        names = [self.zoo.names[model] for model in order]
        name_points(axes, names, [(cost[model], accuracy[model]) for model in order])
        return axes

    def __repr__(self) -> str:
        unit, first = self.protocol.chosen_on.unit, self.strategies[0]
        return described(
            "SearchResult",
            f"{counted(len(self.zoo), 'model')}: {listed(self.zoo.names)}",
            counted(self.zoo.n, "sample"),
            *self.reported.figures(unit),
            *(
                f"{one.band.name or 'band'}: {one.chosen:.2f}x fewer {unit_label(unit)}"
                + ("" if one.held_out is None else f" ({one.held_out.reported:.2f}x held out)")
                for one in first.reductions
            ),
        )


# bounds and expectations are drawn thinner than attainable fronts
_FOUND = (BLUE, "-", 2.0)
_LOOKS = {
    "cascades of up to 3": (SKY_BLUE, "-.", 1.4),
    "cascades of up to 2": (SKY_BLUE, "-", 1.4),
    "cascades of up to 2, no window": (SKY_BLUE, "-", 1.4),
    "neighbouring pairs only": (GREEN, "-.", 1.2),
    _SHARED: (VERMILION, "--", 1.2),
    "random deferral": (GREY, "--", 1.2),
    "oracle deferral (bound)": (BLACK, ":", 1.2),
}
_LABELLED = 30
_FEW = 60


def search(
    records: Sequence[RecordLike],
    *,
    stages: int = 2,
    score: str = "max_softmax",
    combine: str = "later",
    calibrate: bool = False,
    window: bool = False,
    split: str | None = None,
    choose_on: str | None = None,
    cost: str = "flops",
    bands: Sequence[Band | tuple[float, float | None]] | None = None,
    levels: int | None = None,
    candidates: int = 96,
    holdout: float | str = 0.5,
    repeats: int = 20,
    seed: int = 0,
    allow_overlap: bool = False,
    progress: Progress | None = None,
    reading: Progress | None = None,
) -> SearchResult:
    """Search the Pareto front of accuracy against cost of all cascades of recorded models.

    If there are records of a split `calibration` and of one other, models, thresholds and
    temperatures are chosen on the former and reported on the latter.

    Args:
        records: of two or more models, in any order; or their files, or folders of them.
        stages: the largest number of stages of a cascade, 2 to 4.
        score: confidence score; records without logits keep their own, or it is `agreement`, for
            which 3 or 4 stages are searched: the first of them votes, or answers where it is sure.
            For `max_logit_pnorm` a norm per model is chosen on the samples that are chosen on.
        combine: which answer counts after a deferral.
        calibrate: fit a temperature per model, on the samples that are chosen on.
        window: also try floors below which a stage answers, with 2 stages.
        split: the split to report on; needed if there are several besides `calibration`.
        choose_on: the split to choose on; by default `calibration`, or the one that is reported on.
        cost: unit of the cost, or UNIT=FILE with costs that were measured apart.
        bands: ranges of accuracy for the average compute reduction; by default the top half and
            the top quarter of the front of the single models. A range (low, None) ends at the most
            accurate single model.
        levels: number of thresholds per pair; by default all in a small zoo, 1,000 in a large one.
        candidates: number of models that cascades of 3 or 4 are made of: those nearest to the front
            in pairs. Those of 4 are made of at most 16, except where there are predictions alone.
        holdout: share of the samples to report on if there is one split; 0 holds out none.
        repeats: how often the held-out samples are drawn.
        seed: seed of the draws.
        allow_overlap: report even on samples that are chosen on.
        progress: called during the search with the number of models that are done, and of all.
        reading: called before it with the number of records that are read, and of all.

    Raises:
        UsageError: an option out of range, or splits that leave several choices.
        CascadeError: records that do not belong together, or that lack what the options need.

    Examples:
        >>> from lit_cascade.records import Record
        >>> labels = torch.arange(300) % 3
        >>> records = [
        ...     Record.from_arrays(f"net{k}", torch.randn(300, 3) + k * torch.eye(3)[labels],
        ...                        labels, flops=10**k)
        ...     for k in (1, 2, 3)
        ... ]
        >>> search(records).zoo.names
        ('net1', 'net2', 'net3')
    """
    if score == LEARNED.name:
        raise UsageError(
            "score: a learned score is fitted to one cascade, and a search compares all; expected "
            "max_softmax, margin, negative_entropy or agreement. Fit one to a cascade that is "
            "found: lit-cascade calibrate --config cascade-1.yaml --learn_score."
        )
    if score == AGREEMENT.name:
        _check_agreement(stages, combine, window=window)
    if score == MAX_LOGIT_PNORM.name:  # raises where a policy would
        Policy(score=score, combine=combine, norms=("max_softmax",), stages=2)
    holdout = Share(holdout, "holdout")
    if holdout >= 1.0:
        raise UsageError("holdout: expected a share from 0 to below 1, got 1.0.")
    if repeats < 1:
        raise UsageError(f"repeats: expected at least 1, got {repeats}.")
    settings = SearchSettings(
        stages=stages, levels=levels, window=_WINDOW if window else 0, candidates=candidates
    )
    ranges = _ranges(bands) if bands else None
    unit, costs = read_costs(cost)
    protocol = protocol_of(
        records,
        unit,
        split,
        choose_on,
        allow_overlap=allow_overlap,
        costs=costs,
        holdout=holdout,
        repeats=repeats,
        seed=seed,
    )
    rule = DecisionRule(score, combine, calibrate)
    return frontier_of(protocol, rule, settings, ranges, progress, reading)


def _ranges(bands: Sequence[Band | tuple[float, float | None]]) -> Bands:
    """Bands; those without an upper end reach up to the most accurate single model."""
    pairs = [(one.low, one.high, one.name) if isinstance(one, Band) else one for one in bands]
    wanted = [Band(low, 1.0 if high is None else high, *name) for low, high, *name in pairs]

    def ranges(singles: Front) -> list[Band]:
        best = float(singles.accuracy[-1])
        return [
            replace(band, high=best) if high is None and band.low < best else band
            for band, (_, high, *_) in zip(wanted, pairs, strict=True)
        ]

    return ranges


def _check_agreement(stages: int, combine: str, *, window: bool) -> None:
    """Check that a search can be of agreement.

    Raises:
        UsageError: it cannot.
    """
    if stages == 2:
        raise UsageError(
            "stages: the first stage has none to agree with, so that agreement needs at least 3; "
            "expected 3 or 4, got 2."
        )
    if combine != "later":
        raise UsageError(
            f"combine: a search of agreement takes the answer of the later stage; expected later, "
            f"got {combine}."
        )
    if window:
        raise UsageError("window: floors are not searched for with agreement; leave one out.")


def frontier_of(
    protocol: SearchProtocol,
    rule: DecisionRule | None = None,
    settings: SearchSettings | None = None,
    bands: Bands | None = None,
    progress: Progress | None = None,
    reading: Progress | None = None,
) -> SearchResult:
    """Search the front of recorded models and compare it with its baselines.

    Args:
        protocol: the records.
        rule: how the cascades decide.
        settings: extent and resolution of the search.
        bands: maps the single models' front on the samples of the choice to bands.
        progress: called during the first search.
        reading: called before it, while records are read.

    Raises:
        UsageError: a band lies above every model.
        CascadeError: the records lack what the rule needs.
    """
    rule, settings = rule or DecisionRule(), settings or SearchSettings()
    bands = bands or default_bands
    zoos = protocol.zoos(rule, reading)
    chosen_on, reported_on = zoos
    singles, _ = chosen_on.singles()
    wanted = bands(singles)
    for band in wanted:  # before the work: a band may be out of reach
        average_compute_reduction(singles, singles, band)
    cascades = search_zoo(chosen_on, settings, progress)
    thresholds = settings.thresholds_for(chosen_on)
    with_shared, threshold = shared_threshold(chosen_on, wanted[0])
    bands_of = _bands_of_parts(bands, singles)

    name = f"cascades of up to {settings.stages}{', window' if settings.window else ''}"
    choices: dict[str, Choose] = {name: lambda zoo: search_zoo(zoo, settings)}
    for fewer in range(settings.stages - 1, 1, -1):
        smaller = replace(settings, stages=fewer)
        choices[f"cascades of up to {fewer}"] = partial(search_zoo, settings=smaller)
    if settings.window:
        plain = replace(settings, window=0)
        choices["cascades of up to 2, no window"] = partial(search_zoo, settings=plain)
    choices["neighbouring pairs only"] = lambda zoo: neighbour_pairs(zoo, thresholds)
    choices[_SHARED] = lambda zoo: shared_threshold(zoo, bands_of(zoo.singles()[0])[0])[0]
    known = {name: cascades, _SHARED: with_shared}
    levels = _levels(chosen_on, cascades)
    strategies = evaluate_strategies(
        choices, protocol, rule, bands, zoos, known, [model for _, model in levels[:-1]]
    )
    unchosen = {"random deferral": random_pairs, "oracle deferral (bound)": oracle_pairs}
    strategies += [
        Strategy(name, front(reported_on), _reductions(chosen_on, front(chosen_on), bands))
        for name, front in unchosen.items()
    ]
    reported, fits = strategies[0].points, protocol.fits(rule)
    return SearchResult(
        protocol=protocol,
        rule=rule,
        settings=settings,
        bands=bands,
        temperatures=fits["temperatures"] or (1.0,) * len(reported_on),
        norms=fits["norms"],
        zoo=reported_on,
        cascades=cascades,
        reported=reported,
        singles=reported_on.singles()[0],
        strategies=tuple(strategies),
        picks=tuple(_picks(protocol, zoos, cascades, strategies[0], levels)),
        shared=threshold,
    )


def evaluate_strategies(
    choices: Mapping[str, Choose],
    protocol: SearchProtocol,
    rule: DecisionRule,
    bands: Bands,
    zoos: tuple[Zoo, Zoo] | None = None,
    known: Mapping[str, CascadeFront] | None = None,
    models: Sequence[int] = (),
) -> list[Strategy]:
    """Compute the points and the compute reductions of strategies.

    Args:
        choices: by name in tables, how the strategy chooses cascades from a zoo.
        protocol: the records.
        rule: how the cascades decide.
        bands: maps the single models' front to bands.
        zoos: `protocol.zoos(rule)`, if it is known.
        known: what some strategies choose from the first of them, by name.
        models: numbers of models to compare the cascades of the first strategy with.
    """
    chosen_on, _ = zoos = zoos or protocol.zoos(rule)
    known = known or {}
    chosen = {name: known.get(name) or choose(chosen_on) for name, choose in choices.items()}

    def remembered(name: str, choose: Choose) -> Choose:
        return lambda zoo: chosen[name] if zoo is chosen_on else choose(zoo)

    repeated = protocol.reported_on is None and protocol.holdout > 0
    results, savings = held_out_each(
        protocol.trials(rule, zoos),
        [remembered(*choice) for choice in choices.items()],
        _bands_of_parts(bands, chosen_on.singles()[0]),
        resamples=_RESAMPLES if repeated else _RESAMPLES_ALONE,
        seed=protocol.seed,
        models=models,
    )
    return [
        _strategy(name, front, zoos, bands, result, () if k else savings)
        for k, ((name, front), result) in enumerate(zip(chosen.items(), results, strict=True))
    ]


def _strategy(
    name: str,
    chosen: CascadeFront,
    zoos: tuple[Zoo, Zoo],
    bands: Bands,
    results: Sequence[HeldOut],
    savings: Sequence[HeldOutSaving],
) -> Strategy:
    chosen_on, reported_on = zoos
    points = chosen.front
    if reported_on is not chosen_on:  # in the order of the choice
        each = [evaluate_points([point], reported_on) for point in chosen.points]
        points = Front(
            torch.stack([one.cost.mean() for one in each]),
            torch.stack([one.correct.double().mean() for one in each]),
        )
    reductions = _reductions(chosen_on, chosen.front, bands, results)
    return Strategy(name, points, reductions, tuple(savings))


def _bands_of_parts(bands: Bands, singles: Front) -> Bands:
    """Bands of parts of the samples, in which one model may be both cheapest and most accurate."""
    whole = bands(singles)
    return lambda part: bands(part) if len(part) > 1 else whole


def _reductions(
    zoo: Zoo, front: Front, bands: Bands, results: Sequence[HeldOut | None] | None = None
) -> tuple[Reduction, ...]:
    """Compute the reductions of a front of cascades on a zoo, one per band."""
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


def _levels(zoo: Zoo, cascades: CascadeFront) -> list[tuple[float, int]]:
    """Accuracies to keep a cascade for, and the cheapest model of each.

    The last is that of the most accurate cascade, with the most accurate model.
    """
    singles, models = zoo.singles()
    wanted = [*zip(singles.accuracy.tolist(), models, strict=True)]
    wanted.append((cascades.points[-1].accuracy, models[-1]))
    if len(wanted) > _PICKS:
        some = torch.linspace(0, len(wanted) - 1, _PICKS).round().long().tolist()
        wanted = [wanted[i] for i in some]
    return wanted


def _picks(
    protocol: SearchProtocol,
    zoos: tuple[Zoo, Zoo],
    cascades: CascadeFront,
    strategy: Strategy,
    levels: Sequence[tuple[float, int]],
) -> list[Pick]:
    chosen_on, reported_on = zoos
    reported, picks = strategy.points, dict[CascadePoint, Pick]()
    held_out = strategy.savings if protocol.holds_out else ()
    for (least, model), result in zip_longest(levels, held_out):
        point = cascades.cheapest(least)
        if point is None or point in picks:
            continue
        row = cascades.points.index(point)
        cost, accuracy = float(reported.cost[row]), float(reported.accuracy[row])
        alone = float(reported_on.mean_cost[model])
        picks[point] = Pick(
            point=point,
            cost=cost,
            accuracy=accuracy,
            single=chosen_on.names[model],
            saving=alone / cost if cost else math.inf,
            saved=alone - cost,
            difference=accuracy - float(reported_on.accuracy[model]),
            held_out=result,
        )
    return list(picks.values())


def variants(settings: SearchSettings) -> Mapping[str, tuple[DecisionRule, SearchSettings]]:
    """Return decision rules and settings to compare, most of them one change from the default."""
    pairs = SearchSettings(levels=settings.levels)
    window = replace(pairs, window=_WINDOW)
    triples = replace(pairs, stages=3, candidates=settings.candidates)
    rule, average = DecisionRule(), DecisionRule(combine="average")
    agreement = DecisionRule(AGREEMENT.name)
    confident = DecisionRule(combine="most_confident")
    return {
        "max softmax, later answer (default)": (rule, pairs),
        "score: margin": (replace(rule, score="margin"), pairs),
        "score: negative entropy": (replace(rule, score="negative_entropy"), pairs),
        "score: max logit over a p-norm": (replace(rule, score=MAX_LOGIT_PNORM.name), pairs),
        "calibrated": (replace(rule, calibrate=True), pairs),
        "combine: average": (average, pairs),
        "combine: average, calibrated": (replace(average, calibrate=True), pairs),
        "combine: most confident": (confident, pairs),
        "combine: most confident, calibrated": (replace(confident, calibrate=True), pairs),
        "window": (rule, window),
        "3 stages": (rule, triples),
        "3 stages, agreement": (agreement, triples),
        "3 stages, average, calibrated": (replace(average, calibrate=True), triples),
    }
