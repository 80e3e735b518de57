"""Compute reductions of cascades chosen on some samples and reported on others."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from lit_cascade.core import percentile_interval, resampled_counts
from lit_cascade.core.search.front import (
    Band,
    Front,
    average_compute_reduction,
    held_out_reduction,
)
from lit_cascade.core.search.grids import order_of
from lit_cascade.core.search.points import CascadeFront, CascadePoint, evaluate_points
from lit_cascade.core.search.zoo import Zoo

_CELLS = 2**22  # sums over cells that are held in memory at once
_EXACT_FLOAT = 2**24  # float32 holds every integer up to here
_FEW = 8  # cascades of the same stages that are faster one by one than in cells
_AT_ONCE = 64  # of these, tables of samples that are held in memory at once


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


@dataclass(frozen=True)
class HeldOutSaving:
    """A held-out comparison with one model of cascades that promised at least its accuracy.

    Attributes:
        saved: cost of the model less that of the cascade, per sample, mean over the repeats.
        saved_interval: the middle 95 % of it, over resamples as in `HeldOut.interval`.
        difference: accuracy of the cascade less that of the model, mean over the repeats.
        difference_interval: the middle 95 % of it.
    """

    saved: float
    saved_interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]


Choose = Callable[[Zoo], CascadeFront]
"""Chooses cascades from a zoo."""


def held_out(
    trials: Iterable[tuple[Zoo, Zoo]],
    choose: Choose,
    bands: Callable[[Front], Sequence[Band]],
    *,
    resamples: int = 100,
    seed: int = 0,
) -> list[HeldOut]:
    """As `held_out_each`, for one way to choose: one result per band."""
    (results,), _ = held_out_each(trials, [choose], bands, resamples=resamples, seed=seed)
    return results


def held_out_each(
    trials: Iterable[tuple[Zoo, Zoo]],
    choices: Sequence[Choose],
    bands: Callable[[Front], Sequence[Band]],
    *,
    resamples: int = 100,
    seed: int = 0,
    models: Sequence[int] = (),
) -> tuple[list[list[HeldOut]], list[HeldOutSaving]]:
    """Choose cascades on one zoo of each trial and report on the other.

    Args:
        trials: pairs of a zoo to choose on and a zoo of the same models to report on.
        choices: ways to choose, each of which is reported on the same resamples.
        bands: maps the single models' front on the samples of the choice to bands.
        resamples: bootstrap resamples of the reported samples, per trial.
        seed: seed of the resamples.
        models: numbers of models to compare with cascades of their accuracy.

    Returns:
        For each way to choose one result per band; and for the first of them one per model.
    """
    generator = torch.Generator().manual_seed(seed)
    first: list[Sequence[Band]] = []

    def trials_of() -> Iterator[Callable[[], _Trial]]:  # in one thread: draws are in order
        for chosen_on, reported_on in trials:
            # each sample once, and then as often as each resample draws it; float32 for fast
            # products, which are exact sums of ones
            dtype = torch.float32 if reported_on.n <= _EXACT_FLOAT else torch.float64
            drawn = resampled_counts(reported_on.n, resamples, generator, dtype)
            counts = torch.cat([drawn.new_ones(1, reported_on.n), drawn])
            singles, _ = chosen_on.singles()
            wanted = bands(singles)
            first.append(wanted)
            yield partial(_trial, (chosen_on, reported_on), counts, choices, wanted, models)

    figures, compared = zip(*_in_threads(trials_of()), strict=True)
    rows = zip(*figures, strict=True)  # by way to choose, then by trial
    return [
        [_summary(*pair) for pair in zip(first[0], zip(*results, strict=True), strict=True)]
        for results in rows
    ], [_saving(of_model) for of_model in torch.stack(compared).unbind(dim=-1)]


_Trial = tuple[list[list[list[float]]], Tensor]
"""Figures by way to choose and by band; and of L models `_compared`, (2, 1 + R, L)."""


def _in_threads(calls: Iterable[Callable[[], _Trial]]) -> Iterator[_Trial]:
    """Results of calls in their order; torch's threads are divided among them.

    A search has many small steps, of which one thread does each about as fast as two.
    """
    workers = torch.get_num_threads()
    if workers == 1:
        yield from (call() for call in calls)
        return
    waiting: deque[Future[_Trial]] = deque()
    try:
        with ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1)) as pool:
            for call in calls:
                waiting.append(pool.submit(call))
                if len(waiting) > workers:  # a zoo each: not all of them in memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(workers)  # what threads to come begin with is of the process


def _trial(
    zoos: tuple[Zoo, Zoo],
    counts: Tensor,
    choices: Sequence[Choose],
    bands: Sequence[Band],
    compared_with: Sequence[int],
) -> _Trial:
    """Choose on the first zoo, and report on the second as often as the counts say."""
    chosen_on, reported_on = zoos
    singles, _ = chosen_on.singles()
    models = reported_on.singles()[0], _resampled_singles(reported_on, counts)
    results, compared = [], torch.zeros(2, len(counts), 0)
    for number, choose in enumerate(choices):
        cascades = choose(chosen_on)
        reported = _resampled_points(cascades.points, reported_on, counts)
        if number == 0 and compared_with:
            compared = _compared(zoos, counts, compared_with, cascades.front, reported)
        within = (band.within(singles, cascades.front) for band in bands)
        results.append(
            [_figures(band, singles, models, cascades.front, reported) for band in within]
        )
    return results, compared


def _compared(
    zoos: tuple[Zoo, Zoo], counts: Tensor, models: Sequence[int], chosen: Front, resampled: Front
) -> Tensor:
    """Return cost saved over each of L models, and accuracy less its, by row, (2, 1 + R, L)."""
    chosen_on, reported_on = zoos
    rows = chosen.first_row(chosen_on.accuracy[models]).clamp(max=len(chosen) - 1)
    costs = reported_on.costs[models]
    cost = costs[:, 0] if reported_on.constant else _means(counts, costs)
    return torch.stack(
        [
            cost - resampled.cost[:, rows],
            resampled.accuracy[:, rows] - _means(counts, reported_on.correct[models]),
        ]
    )


def _saving(trials: Tensor) -> HeldOutSaving:
    """Summarise what `_compared` says of one model in T trials, (T, 2, 1 + R)."""
    means = trials[:, :, 0].mean(dim=0).tolist()
    ends = [percentile_interval(trials[:, k, 1:].flatten()) for k in range(2)]
    return HeldOutSaving(means[0], ends[0], means[1], ends[1])


def _figures(
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
    """Return costs and accuracies of P cascades by each row of counts, (1 + R, P); not fronts.

    Cascades of the same stages differ in thresholds alone. Between two neighbouring thresholds all
    of them treat the samples alike, so sums over such cells serve all of them.
    """
    drawn = counts.t().contiguous()
    cost = torch.empty(len(counts), len(points), dtype=torch.float64)
    accuracy = torch.empty_like(cost)
    groups: dict[tuple[int, ...], list[int]] = {}
    for column, point in enumerate(points):
        groups.setdefault(point.stages, []).append(column)
    alone: list[int] = []
    for stages, columns in groups.items():
        cells = _Cells.of([points[column] for column in columns], zoo)
        if len(columns) <= _FEW or math.prod(cells.sizes) > zoo.n:
            alone += columns
            continue
        first, right = stages[0], zoo.correct[stages[0]]
        total = (counts @ right.to(counts.dtype)).double()[:, None]
        spent = zoo.costs[first][:, None]
        if not zoo.constant:
            spent = _means(counts, zoo.costs[first][None])
        for k in range(1, len(stages)):
            later = zoo.correct_after(stages[:k], [stages[k]])[0]
            gain = later.to(drawn.dtype) - right.to(drawn.dtype)
            total = total + cells.sums(drawn, gain, k)
            if zoo.constant:
                deferred = cells.sums(drawn, torch.ones_like(gain), k)
                spent = spent + deferred / zoo.n * zoo.costs[stages[k]]
            else:
                spent = spent + cells.sums(drawn.double(), zoo.costs[stages[k]], k) / zoo.n
            right = later
        accuracy[:, columns], cost[:, columns] = total / zoo.n, spent
    for start in range(0, len(alone), _AT_ONCE):
        columns = alone[start : start + _AT_ONCE]
        some = [points[column] for column in columns]
        cost[:, columns], accuracy[:, columns] = _one_by_one(some, zoo, counts)
    return Front(cost, accuracy)


def _one_by_one(points: Sequence[CascadePoint], zoo: Zoo, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Costs and accuracies of P cascades by each row of counts, (1 + R, P), sample by sample."""
    judged = evaluate_points(points, zoo)
    if not zoo.constant:
        return _means(counts, judged.cost), _means(counts, judged.correct)
    cost = zoo.costs[[point.stages[0] for point in points], 0].expand(len(counts), -1).clone()
    for k in range(1, max(len(point.stages) for point in points)):
        # counts are exact, so a mean does not depend on the cascades beside it
        some = [row for row, point in enumerate(points) if len(point.stages) > k]
        models = [points[row].stages[k] for row in some]
        cost[:, some] += _means(counts, judged.stage[some] >= k) * zoo.costs[models, 0]
    return cost, _means(counts, judged.correct)


@dataclass(frozen=True)
class _Cells:
    """Cells of samples between neighbouring thresholds of P cascades of the same K stages.

    Attributes:
        place: of the score of each sample among the thresholds and floors of each deferring stage,
            (N,) int64 each: the number of them that it reaches.
        sizes: number of thresholds and floors of each deferring stage.
        floors: place of the floor of each cascade, (P,) int64 for each deferring stage.
        thresholds: the same of the thresholds.
    """

    place: list[Tensor]
    sizes: list[int]
    floors: list[Tensor]
    thresholds: list[Tensor]

    @classmethod
    def of(cls, points: Sequence[CascadePoint], zoo: Zoo) -> _Cells:
        """Divide the samples of a zoo by the thresholds of cascades of the same stages."""
        cells = cls([], [], [], [])
        for k, model in enumerate(points[0].stages[:-1]):
            scores = zoo.score_of(points[0].stages[:k], model)
            ends = [
                [point.floors[k] for point in points],
                [point.thresholds[k] for point in points],
            ]
            # in the precision of the scores, as the contract compares them
            values, inverse = torch.tensor(ends, dtype=scores.dtype).unique(return_inverse=True)
            cells.place.append(torch.bucketize(scores, values, right=True))
            cells.sizes.append(len(values) + 1)
            cells.floors.append(inverse[0])
            cells.thresholds.append(inverse[1].maximum(inverse[0]))
        return cells

    def sums(self, drawn: Tensor, weight: Tensor, k: int) -> Tensor:
        """Sum a weight over the samples that reach stage k of each cascade.

        Args:
            drawn: multiplicity of each sample in each resample, (N, 1 + R).
            weight: of each sample, (N,), in the dtype of `drawn`.
            k: number of the stage, from 1.

        Returns:
            (1 + R, P) float64.
        """
        sizes = self.sizes[:k]
        cell, total = torch.zeros_like(self.place[0]), 1
        for place, size in zip(self.place[:k], sizes, strict=True):
            cell, total = cell * size + place, total * size
        order, counts = order_of(cell, total), torch.bincount(cell, minlength=total)
        starts, weight = counts.cumsum(0) - counts, weight[order]
        parts = []
        for some in drawn.split(max(1, _CELLS // max(total, len(drawn))), dim=1):
            sums = embedding_bag(
                order, some.contiguous(), starts, mode="sum", per_sample_weights=weight
            ).view(*sizes, -1)
            for dimension in range(k):
                sums = sums.cumsum(dim=dimension)
            parts.append(self._within(sums.double(), k))
        return torch.cat(parts, dim=1).t()

    def _within(self, sums: Tensor, k: int) -> Tensor:
        """Differences of running sums (*sizes, R) between floors and thresholds, (P, R)."""
        found = torch.zeros(())
        for ends in itertools.product((True, False), repeat=k):
            pairs = zip(ends, self.thresholds[:k], self.floors[:k], strict=True)
            index = tuple(above if high else below for high, above, below in pairs)
            found = found + (-1) ** ends.count(False) * sums[index]
        return found


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
