"""Operating points of many cascades, and the best of them while a search goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cascade.core import above_floor, route
from lit_cascade.core.search.front import Front
from lit_cascade.core.search.zoo import Zoo

__all__ = ["BestSoFar", "Cascades", "Evaluated", "OnePoint", "evaluate"]

# A cost that is lower by no more than rounding does not make another cascade better.
_ROUNDING = 1e-12
_BLOCK = 2**16


class OnePoint(NamedTuple):
    """One operating point of one cascade; a single model is a cascade of one stage.

    Attributes:
        stages: numbers of the models in the zoo, in order.
        thresholds: one per stage but the last.
        floors: as many.
        cost: mean cost per sample.
        accuracy: share of correct answers.
    """

    stages: tuple[int, ...]
    thresholds: tuple[float, ...]
    floors: tuple[float, ...]
    cost: float
    accuracy: float


@dataclass(frozen=True)
class Cascades:
    """The Pareto front of a search: operating points, rising in cost and accuracy.

    Attributes:
        points: of single models and cascades.
    """

    points: tuple[OnePoint, ...]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def front(self) -> Front:
        """Costs and accuracies alone."""
        return Front(
            torch.tensor([point.cost for point in self.points], dtype=torch.float64),
            torch.tensor([point.accuracy for point in self.points], dtype=torch.float64),
        )

    def cheapest(self, accuracy: float) -> OnePoint | None:
        """The cheapest point with at least an accuracy."""
        enough = (point for point in self.points if point.accuracy >= accuracy - 1e-9)
        return next(enough, None)


class BestSoFar:
    """The least cost seen for every number of correct answers, and which cascade it was.

    Args:
        n: number of samples.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self.least = torch.full((n + 2,), torch.inf, dtype=torch.float64)
        """Least cost with at least so many correct answers, (N + 2,)."""
        self._kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def compare(self, correct: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        """Compare points with all seen so far that are at least as accurate.

        Args:
            correct: numbers of correct answers, (R, J) int32.
            cost: mean cost per sample, (R, J) float64.

        Returns:
            The indices of the cheaper points into the flattened tensors, int64; and for each column
            the least ratio of its cost to the best seen, (J,) float64.
        """
        columns = correct.shape[1]
        rows = max(1, _BLOCK // columns)  # a block stays in a core's cache
        found, ratios = [], []
        for start in range(0, len(correct), rows):
            least = self.least.index_select(0, correct[start : start + rows].flatten())
            ratio = cost[start : start + rows].flatten().div(least)
            if float(self.least[0]) == 0:  # what costs nothing is no better than its like
                ratio.nan_to_num_(nan=1.0, posinf=math.inf)
            ratios.append(ratio.view(-1, columns).amin(dim=0))
            if float(ratios[-1].min()) < 1 - _ROUNDING:
                found.append((ratio < 1 - _ROUNDING).nonzero().squeeze(1) + start * columns)
        empty = torch.zeros(0, dtype=torch.int64)
        return torch.cat([empty, *found]), torch.stack(ratios).amin(dim=0)

    def add(self, correct: Tensor, cost: Tensor, stages: Tensor, limits: Tensor) -> None:
        """Keep points that `compare` found cheaper.

        Args:
            correct: (S,) integers.
            cost: (S,) float64.
            stages: (S, K) int64.
            limits: thresholds, then floors, (S, 2 (K - 1)) float64.
        """
        if len(cost) == 0:
            return
        correct = correct.long()
        self.least.scatter_reduce_(0, correct, cost, "amin")
        self.least = self.least.flip(0).cummin(dim=0).values.flip(0)
        best = cost <= self.least[correct]
        self._kept.append((correct[best], cost[best], stages[best], limits[best]))

    def front(self) -> Cascades:
        """The front of all that was seen. Of equal points the one that was added first stays."""
        chosen: dict[int, OnePoint] = {}
        for correct, cost, stages, limits in self._kept:
            beyond = self.least[correct + 1] * (1 - _ROUNDING)
            top = (cost <= self.least[correct]) & (cost < beyond)
            rows = zip(
                correct[top].tolist(),
                cost[top].tolist(),
                stages[top].tolist(),
                limits[top].tolist(),
                strict=True,
            )
            for right, price, models, numbers in rows:
                k = len(models) - 1
                point = OnePoint(
                    tuple(models), tuple(numbers[:k]), tuple(numbers[k:]), price, right / self._n
                )
                chosen.setdefault(right, point)
        return Cascades(tuple(chosen[right] for right in sorted(chosen)))


class Evaluated(NamedTuple):
    """What cascades do to samples, one by one.

    Attributes:
        correct: (P, N) bool.
        cost: (P, N) float64.
        stage: which stage answers, (P, N) int64.
    """

    correct: Tensor
    cost: Tensor
    stage: Tensor


def evaluate(points: Sequence[OnePoint], zoo: Zoo) -> Evaluated:
    """Apply cascades to the samples of a zoo, which may be others than they were found on.

    Args:
        points: stages, thresholds and floors.
        zoo: of the same models.
    """
    correct, costs, stages = [], [], []
    for point in points:
        stage = torch.zeros(zoo.n, dtype=torch.int64)
        if len(point.stages) > 1:
            scores = [
                above_floor(zoo.scores[model], floor)
                for model, floor in zip(point.stages, point.floors, strict=False)
            ]
            stage = route(scores, point.thresholds)
        right, cost = torch.zeros(zoo.n, dtype=torch.bool), torch.zeros(zoo.n, dtype=torch.float64)
        for k, model in enumerate(point.stages):
            here = stage == k
            right |= here & zoo.after(point.stages[:k], [model])[0]
            cost += zoo.costs[model] * (stage >= k)
        correct.append(right)
        costs.append(cost)
        stages.append(stage)
    return Evaluated(torch.stack(correct), torch.stack(costs), torch.stack(stages))
