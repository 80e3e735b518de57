"""What is chosen on some samples, reported on others: honest averages, with their uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cascade.core.cascades import Cascades, OnePoint, evaluate
from lit_cascade.core.frontier import (
    Band,
    Front,
    average_compute_reduction,
    pareto,
    times_less,
)
from lit_cascade.core.zoo import Zoo

__all__ = ["HeldOut", "held_out", "reported_reduction"]

_TOLERANCE = 1e-9
_AT_ONCE = 64


def reported_reduction(
    singles: Front, chosen: Front, reported: Front, band: Band, *, interpolated: bool = False
) -> float:
    """Average compute reduction of cascades on other samples than they were chosen on.

    For each of 1,000 equally spaced accuracies `a` of the band, the cheapest cascade that promises
    it on the samples of the choice is taken, as `average_compute_reduction` takes it. On the other
    samples its accuracy is lower by some shortfall e, which may be negative. It is compared with
    the cheapest single model that has at least the accuracy `a - e` there; above the most accurate
    one the cost of that one counts. Nothing about the cascades is chosen on the samples of the
    report, and on the same samples the figure is that of `average_compute_reduction`.

    Args:
        singles: front of the single models on the samples of the report.
        chosen: the cascades' front on the samples of the choice, (P,).
        reported: the same P cascades on the samples of the report; no front any more.
        band: of accuracies, on the samples of the choice.
        interpolated: as for `average_compute_reduction`.

    Example:
        >>> from lit_cascade.core.frontier import Front
        >>> half = torch.tensor([0.5, 0.9], dtype=torch.float64)
        >>> cascades = Front(torch.tensor([1.0, 3.0]), half)
        >>> worse = Front(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.4], dtype=torch.float64))
        >>> singles = Front(torch.tensor([1.0, 9.0]), half)
        >>> reported_reduction(singles, cascades, cascades, Band(0.7, 0.9))
        3.0
        >>> round(reported_reduction(singles, cascades, worse, Band(0.7, 0.9)), 3)
        0.333
    """
    at = torch.searchsorted(chosen.accuracy, band.accuracies() - _TOLERANCE)
    at = at.clamp(max=len(chosen) - 1)
    shortfall = chosen.accuracy[at] - reported.accuracy[at]
    accuracy, cost = band.accuracies() - shortfall, reported.cost[at]
    if interpolated:
        single = singles.interpolated_cost(accuracy)
    else:
        single = singles.least_cost(accuracy).clamp(max=float(singles.cost[-1]))
    return float(times_less(single, cost).mean())


@dataclass(frozen=True)
class HeldOut:
    """An average compute reduction, held out.

    Attributes:
        band: its name, and its accuracies on the samples of the first choice.
        chosen: on the samples that pairs and thresholds were chosen on, mean over the repeats.
        reported: on the others, mean over the repeats.
        reported_interpolated: the same against the interpolated front of the single models.
        shortfall: mean of promised less reported accuracy.
        spread: standard deviation of `reported` over the repeats; None with one repeat.
        interval: the middle 95 % of `reported` over bootstrap resamples of the samples reported
            on, of all repeats together.
        repeats: how often a choice was made.
    """

    band: Band
    chosen: float
    reported: float
    reported_interpolated: float
    shortfall: float
    spread: float | None
    interval: tuple[float, float]
    repeats: int

    @property
    def optimism(self) -> float:
        """How much the samples of the choice flatter: chosen less reported."""
        return self.chosen - self.reported


@dataclass
class _Trial:
    chosen: float
    reported: float
    interpolated: float
    shortfall: float
    resampled: list[float]


class _Resampled(NamedTuple):
    """Means under the plain weights, then under those of each resample.

    Attributes:
        cost: of P cascades or models, (1 + R, P) float64.
        accuracy: (1 + R, P) float64.
    """

    cost: Tensor
    accuracy: Tensor

    def fronts(self) -> list[Front]:
        """One row each; the points of a row need not be a front."""
        return [Front(c, a) for c, a in zip(self.cost, self.accuracy, strict=True)]


def _cascades_of(points: Sequence[OnePoint], zoo: Zoo, weights: Tensor) -> _Resampled:
    parts = []
    for start in range(0, len(points), _AT_ONCE):  # samples of all cascades at once are many
        judged = evaluate(points[start : start + _AT_ONCE], zoo)
        parts.append((weights @ judged.cost.t(), weights @ judged.correct.double().t()))
    costs, accuracies = zip(*parts, strict=True)
    return _Resampled(torch.cat(costs, dim=1), torch.cat(accuracies, dim=1))


def _singles_of(zoo: Zoo, weights: Tensor) -> list[Front]:
    costs = zoo.costs.expand(-1, zoo.n) if zoo.constant else zoo.costs
    means = _Resampled(weights @ costs.t(), weights @ zoo.correct.double().t())
    fronts = []
    for cost, accuracy in zip(means.cost, means.accuracy, strict=True):
        keep = pareto(cost, accuracy)
        fronts.append(Front(cost[keep], accuracy[keep]))
    return fronts


def held_out(
    trials: Iterable[tuple[Zoo, Zoo]],
    choose: Callable[[Zoo], Cascades],
    bands: Callable[[Front], Sequence[Band]],
    *,
    resamples: int = 100,
    seed: int = 0,
) -> list[HeldOut]:
    """Choose on one zoo of each trial, report on the other.

    Args:
        trials: pairs of a zoo to choose on and a zoo of the same models to report on.
        choose: finds the cascades.
        bands: from the single models' front on the samples of the choice.
        resamples: bootstrap resamples of the samples reported on, per trial.
        seed: of the resamples.

    Returns:
        One result per band.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[list[_Trial]] = []
    first: Sequence[Band] = ()
    for chosen_on, reported_on in trials:
        singles, _ = chosen_on.singles()
        wanted = bands(singles)
        first = first or wanted
        cascades = choose(chosen_on)
        weights = _weights(reported_on.n, resamples, generator)
        judged = _cascades_of(cascades.points, reported_on, weights).fronts()
        models = _singles_of(reported_on, weights)
        found.append([_trial(singles, cascades.front, models, judged, b) for b in wanted])
    results = []
    for band, trials_of_band in zip(first, zip(*found, strict=True), strict=True):
        reported = _doubles(trial.reported for trial in trials_of_band)
        resampled = _doubles(r for trial in trials_of_band for r in trial.resampled)
        ends = resampled.quantile(_doubles((0.025, 0.975))).tolist()
        many = len(trials_of_band) > 1
        results.append(
            HeldOut(
                band=band,
                chosen=_mean([trial.chosen for trial in trials_of_band]),
                reported=float(reported.mean()),
                reported_interpolated=_mean([trial.interpolated for trial in trials_of_band]),
                shortfall=_mean([trial.shortfall for trial in trials_of_band]),
                spread=float(reported.std()) if many else None,
                interval=(ends[0], ends[1]),
                repeats=len(trials_of_band),
            )
        )
    return results


def _doubles(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _weights(n: int, resamples: int, generator: torch.Generator) -> Tensor:
    """The plain mean, then resamples with replacement, (1 + R, N) float64."""
    drawn = torch.randint(n, (resamples, n), generator=generator)
    counts = torch.zeros(resamples, n, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones(resamples, n, dtype=torch.float64))
    return torch.cat([torch.full((1, n), 1 / n, dtype=torch.float64), counts / n])


def _trial(
    singles: Front, chosen: Front, models: Sequence[Front], judged: Sequence[Front], band: Band
) -> _Trial:
    band = band.within(singles, chosen)
    at = torch.searchsorted(chosen.accuracy, band.accuracies() - _TOLERANCE)
    at = at.clamp(max=len(chosen) - 1)
    plain, *resampled = (
        reported_reduction(single, chosen, reported, band)
        for single, reported in zip(models, judged, strict=True)
    )
    return _Trial(
        chosen=average_compute_reduction(singles, chosen, band),
        reported=plain,
        interpolated=reported_reduction(models[0], chosen, judged[0], band, interpolated=True),
        shortfall=float((chosen.accuracy[at] - judged[0].accuracy[at]).mean()),
        resampled=resampled,
    )
