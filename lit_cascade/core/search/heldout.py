"""Compute reductions of cascades chosen on some samples and reported on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core import percentile_interval, resampled_counts
from lit_cascade.core.search.front import (
    Band,
    Front,
    average_compute_reduction,
    held_out_reduction,
)
from lit_cascade.core.search.points import CascadeFront, CascadePoint, evaluate_points
from lit_cascade.core.search.zoo import Zoo

_AT_ONCE = 64  # cascades whose samples are held in memory at once
_EXACT_FLOAT = 2**24  # float32 holds every integer up to here


@dataclass(frozen=True)
class HeldOut:
    """A held-out average compute reduction.

    Attributes:
        band: accuracies on the samples of the first choice.
        chosen: reduction on the samples of the choice, mean over the repeats.
        reported: reduction on the other samples, mean over the repeats.
        reported_interpolated: the same against the interpolated front of the single models.
        shortfall: mean accuracy on the samples of the choice less that on the others.
        spread: standard deviation of `reported` over the repeats; None with one repeat.
        interval: the middle 95 % of `reported` over bootstrap resamples of the reported samples of
            all repeats.
        repeats: number of choices made.
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


def held_out(
    trials: Iterable[tuple[Zoo, Zoo]],
    choose: Callable[[Zoo], CascadeFront],
    bands: Callable[[Front], Sequence[Band]],
    *,
    resamples: int = 100,
    seed: int = 0,
) -> list[HeldOut]:
    """Choose cascades on one zoo of each trial and report on the other.

    Args:
        trials: pairs of a zoo to choose on and a zoo of the same models to report on.
        choose: function that chooses cascades.
        bands: maps the single models' front on the samples of the choice to bands.
        resamples: bootstrap resamples of the reported samples, per trial.
        seed: seed of the resamples.

    Returns:
        One result per band.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[list[float]]] = []
    first: Sequence[Band] = ()
    for chosen_on, reported_on in trials:
        singles, _ = chosen_on.singles()
        wanted = bands(singles)
        first = first or wanted
        cascades = choose(chosen_on)
        # each sample once, and then as often as each resample draws it; float32 for fast products,
        # which are exact sums of ones
        dtype = torch.float32 if reported_on.n <= _EXACT_FLOAT else torch.float64
        drawn = resampled_counts(reported_on.n, resamples, generator, dtype)
        counts = torch.cat([drawn.new_ones(1, reported_on.n), drawn])
        reported = _resampled_points(cascades.points, reported_on, counts)
        models = reported_on.singles()[0], _resampled_singles(reported_on, counts)
        bands_within = (band.within(singles, cascades.front) for band in wanted)
        rows.append(
            [_trial(band, singles, models, cascades.front, reported) for band in bands_within]
        )
    return [
        _summary(band, column) for band, column in zip(first, zip(*rows, strict=True), strict=True)
    ]


def _trial(
    band: Band, singles: Front, models: tuple[Front, Front], chosen: Front, resampled: Front
) -> list[float]:
    """Return the reductions and the shortfall of one band, then the reduction on each resample.

    The single models are those on the samples of the choice, on those of the report and on the
    resamples of the latter, the first of which is the samples themselves.
    """
    reported = Front(resampled.cost[0], resampled.accuracy[0])
    rows = chosen.first_row(band.accuracies()).clamp(max=len(chosen) - 1)
    interpolated = held_out_reduction(models[0], chosen, reported, band, interpolated=True)
    return [
        average_compute_reduction(singles, chosen, band),
        float(interpolated),
        float((chosen.accuracy[rows] - reported.accuracy[rows]).mean()),
        *held_out_reduction(models[1], chosen, resampled, band).tolist(),
    ]


def _summary(band: Band, trials: Sequence[list[float]]) -> HeldOut:
    *averaged, itself = zip(*(trial[:4] for trial in trials), strict=True)
    chosen, interpolated, shortfall = (sum(values) / len(trials) for values in averaged)
    reported = torch.tensor(itself, dtype=torch.float64)
    resampled = torch.tensor([trial[4:] for trial in trials], dtype=torch.float64)
    return HeldOut(
        band=band,
        chosen=chosen,
        reported=float(reported.mean()),
        reported_interpolated=interpolated,
        shortfall=shortfall,
        spread=float(reported.std()) if len(trials) > 1 else None,
        interval=percentile_interval(resampled.flatten()),
        repeats=len(trials),
    )


def _means(counts: Tensor, values: Tensor) -> Tensor:
    """Average booleans or costs (P, N) by each row of counts (1 + R, N): (1 + R, P) float64."""
    if values.dtype == torch.bool:
        return (counts @ values.to(counts.dtype).t()).double() / counts.shape[1]
    return counts.double() @ values.t() / counts.shape[1]


def _resampled_points(points: Sequence[CascadePoint], zoo: Zoo, counts: Tensor) -> Front:
    """Return costs and accuracies of P cascades by each row of counts, (1 + R, P); not fronts."""
    costs, accuracies = [], []
    for start in range(0, len(points), _AT_ONCE):
        some = points[start : start + _AT_ONCE]
        results = evaluate_points(some, zoo)
        accuracies.append(_means(counts, results.correct))
        if zoo.constant:
            costs.append(_stage_costs(some, results.stage, zoo, counts))
        else:
            costs.append(_means(counts, results.cost))
    return Front(torch.cat(costs, dim=1), torch.cat(accuracies, dim=1))


def _stage_costs(points: Sequence[CascadePoint], stage: Tensor, zoo: Zoo, counts: Tensor) -> Tensor:
    """Return mean costs where each model costs the same on every sample, (1 + R, P)."""
    total = zoo.costs[[point.stages[0] for point in points], 0].expand(len(counts), -1)
    for k in range(1, max(len(point.stages) for point in points)):
        # no sample reaches stage k of a cascade with fewer stages
        models = [point.stages[k] if k < len(point.stages) else 0 for point in points]
        total = total + _means(counts, stage >= k) * zoo.costs[models, 0]
    return total


def _resampled_singles(zoo: Zoo, counts: Tensor) -> Front:
    """Return the least cost of a single model by each row of counts, (1 + R, M).

    Costs and accuracies rise, but not strictly: dominated models are kept.
    """
    accuracy = _means(counts, zoo.correct)
    cost = zoo.mean_cost.expand_as(accuracy) if zoo.constant else _means(counts, zoo.costs)
    order = cost.sort(dim=1, descending=True, stable=True).indices
    accuracy, by_accuracy = accuracy.gather(1, order).sort(dim=1, stable=True)
    cost = cost.gather(1, order.gather(1, by_accuracy))
    return Front(cost.flip(1).cummin(dim=1).values.flip(1), accuracy)
