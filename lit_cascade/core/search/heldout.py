"""What is chosen on some samples, reported on others: honest averages, with their uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core.search.front import Band, Front, average_compute_reduction, times_less
from lit_cascade.core.search.points import Cascades, OnePoint, evaluate
from lit_cascade.core.search.zoo import Zoo

__all__ = ["HeldOut", "held_out", "reported_reduction"]

_TOLERANCE = 1e-9
_AT_ONCE = 64
_EXACT_FLOAT = 2**24  # up to here float32 holds every integer


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
        >>> from lit_cascade.core.search.front import Front
        >>> half = torch.tensor([0.5, 0.9], dtype=torch.float64)
        >>> cascades = Front(torch.tensor([1.0, 3.0]), half)
        >>> worse = Front(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.4], dtype=torch.float64))
        >>> singles = Front(torch.tensor([1.0, 9.0]), half)
        >>> reported_reduction(singles, cascades, cascades, Band(0.7, 0.9))
        3.0
        >>> round(reported_reduction(singles, cascades, worse, Band(0.7, 0.9)), 3)
        0.333
    """
    return float(_reductions(singles, chosen, reported, band, interpolated=interpolated))


def _reductions(
    singles: Front, chosen: Front, reported: Front, band: Band, *, interpolated: bool = False
) -> Tensor:
    """`reported_reduction` of R resamples: fronts (R, M) and points (R, P) give (R,)."""
    at = _taken(chosen, band)
    shortfall = chosen.accuracy[at] - reported.accuracy.index_select(-1, at)
    accuracy, cost = band.accuracies() - shortfall, reported.cost.index_select(-1, at)
    if interpolated:
        single = singles.interpolated_cost(accuracy)
    else:
        single = torch.minimum(singles.least_cost(accuracy), singles.cost[..., -1:])
    return times_less(single, cost).mean(dim=-1)


def _taken(chosen: Front, band: Band) -> Tensor:
    """The cheapest cascade for each accuracy of the band, as it was promised."""
    at = torch.searchsorted(chosen.accuracy, band.accuracies() - _TOLERANCE)
    return at.clamp(max=len(chosen) - 1)


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


def _cascades_of(points: Sequence[OnePoint], zoo: Zoo, counts: Tensor) -> Front:
    """What P cascades cost and reach under each of the counts, (1 + R, P); they are no fronts."""
    costs, accuracies = [], []
    for start in range(0, len(points), _AT_ONCE):  # samples of all cascades at once are many
        some = points[start : start + _AT_ONCE]
        judged = evaluate(some, zoo)
        accuracies.append(_means(counts, judged.correct))
        costs.append(
            _stage_costs(some, judged.stage, zoo, counts)
            if zoo.constant
            else _means(counts, judged.cost)
        )
    return Front(torch.cat(costs, dim=1), torch.cat(accuracies, dim=1))


def _stage_costs(points: Sequence[OnePoint], stage: Tensor, zoo: Zoo, counts: Tensor) -> Tensor:
    """Mean costs of cascades whose models cost the same on every sample, (1 + R, P)."""
    total = zoo.costs[[point.stages[0] for point in points], 0].expand(len(counts), -1)
    for k in range(1, max(len(point.stages) for point in points)):
        # a cascade without so many stages reaches none
        models = [point.stages[k] if k < len(point.stages) else 0 for point in points]
        total = total + _means(counts, stage >= k) * zoo.costs[models, 0]
    return total


def _singles_of(zoo: Zoo, counts: Tensor) -> Front:
    """The least cost of a single model under each of the counts, (1 + R, M).

    Costs and accuracies rise, some by nothing: models that are no use alone are not left out.
    """
    accuracy = _means(counts, zoo.correct)
    cost = zoo.mean_cost.expand_as(accuracy) if zoo.constant else _means(counts, zoo.costs)
    order = cost.sort(dim=1, descending=True, stable=True).indices
    accuracy, by_accuracy = accuracy.gather(1, order).sort(dim=1, stable=True)
    cost = cost.gather(1, order.gather(1, by_accuracy))
    return Front(cost.flip(1).cummin(dim=1).values.flip(1), accuracy)


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
        counts = _counts(reported_on.n, resamples, generator)
        judged = _cascades_of(cascades.points, reported_on, counts)
        models = _singles_of(reported_on, counts)
        plain = reported_on.singles()[0]
        found.append([_trial(singles, cascades.front, plain, models, judged, b) for b in wanted])
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


def _counts(n: int, resamples: int, generator: torch.Generator) -> Tensor:
    """How often each sample counts: once, then as resamples with replacement have it, (1 + R, N).

    They are float32 for the sake of fast products, which are sums of ones and so exact.
    """
    drawn = torch.randint(n, (resamples, n), generator=generator)
    dtype = torch.float32 if n <= _EXACT_FLOAT else torch.float64
    counts = torch.zeros(1 + resamples, n, dtype=dtype)
    counts[0] = 1
    counts[1:].scatter_add_(1, drawn, torch.ones(1, 1, dtype=dtype).expand_as(drawn))
    return counts


def _means(counts: Tensor, values: Tensor) -> Tensor:
    """Means under each of the counts (1 + R, N) of ones or costs (P, N): (1 + R, P) float64."""
    if values.dtype == torch.bool:
        return (counts @ values.to(counts.dtype).t()).double() / counts.shape[1]
    return counts.double() @ values.t() / counts.shape[1]


def _trial(
    singles: Front, chosen: Front, plain: Front, models: Front, judged: Front, band: Band
) -> _Trial:
    band = band.within(singles, chosen)
    reported, *resampled = _reductions(models, chosen, judged, band).tolist()
    points = Front(judged.cost[0], judged.accuracy[0])
    at = _taken(chosen, band)
    return _Trial(
        chosen=average_compute_reduction(singles, chosen, band),
        reported=reported,
        interpolated=reported_reduction(plain, chosen, points, band, interpolated=True),
        shortfall=float((chosen.accuracy[at] - points.accuracy[at]).mean()),
        resampled=resampled,
    )
