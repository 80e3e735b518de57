"""Operating points of cascades, and the archive of the best of them during a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lit_cascade.core import route
from lit_cascade.core.search.front import Front
from lit_cascade.core.search.zoo import Zoo
from lit_cascade.utilities.tabular import Tabular, described

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A cost that is lower by no more than rounding does not make another cascade better.
_ROUNDING = 1e-12
_BLOCK = 2**16  # points compared at once: they stay in a core's cache

Describe = Callable[[Tensor], tuple[Tensor, Tensor]]


class CascadePoint(NamedTuple):
    """An operating point of a cascade; a single model is a cascade of one stage.

    Attributes:
        stages: model numbers in the zoo, in stage order.
        thresholds: one per stage but the last.
        floors: as many.
        cost: mean cost per sample.
        accuracy: fraction of correct answers.
    """

    stages: tuple[int, ...]
    thresholds: tuple[float, ...]
    floors: tuple[float, ...]
    cost: float
    accuracy: float


@dataclass(frozen=True)
class CascadeFront(Tabular):
    """The Pareto front of a search.

    Attributes:
        points: operating points of single models and cascades, rising in cost and accuracy.
    """

    points: tuple[CascadePoint, ...]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def front(self) -> Front:
        """Costs and accuracies of the points."""
        return Front(
            torch.tensor([point.cost for point in self.points], dtype=torch.float64),
            torch.tensor([point.accuracy for point in self.points], dtype=torch.float64),
        )

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per point: `cost, accuracy, stages, thresholds, floors`."""
        names = ("cost", "accuracy", "stages", "thresholds", "floors")
        return {name: [getattr(point, name) for point in self.points] for name in names}

    def plot(self, ax: Axes | None = None, **style: Any) -> Axes:
        """Draw accuracy against cost, as `Front.plot`."""
        return self.front.plot(ax, **style)

    def __repr__(self) -> str:
        return described("CascadeFront", *self.front.figures())

    def cheapest(self, accuracy: float) -> CascadePoint | None:
        """Return the cheapest point with at least an accuracy, or None."""
        row = int(self.front.first_row(torch.tensor([accuracy], dtype=torch.float64)))
        return self.points[row] if row < len(self) else None


class ParetoArchive:
    """Least cost seen for each number of correct answers, and the cascades that reach it.

    Args:
        n: number of samples.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self.least = torch.full((n + 2,), torch.inf, dtype=torch.float64)
        """Least cost with at least so many correct answers, (N + 2,)."""
        self._kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    @classmethod
    def of_singles(cls, zoo: Zoo) -> ParetoArchive:
        """Return an archive of the single models, as cascades of one stage."""
        archive = cls(zoo.n)
        front, models = zoo.singles()
        stages = torch.tensor(models)[:, None]
        archive._add(zoo.right[models], front.cost, stages, torch.zeros(len(front), 0))
        return archive

    def compare(self, correct: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        """Compare points with all archived ones that are at least as accurate.

        Args:
            correct: numbers of correct answers, (R, J) int32.
            cost: mean cost per sample, (R, J) float64.

        Returns:
            Indices of the cheaper points into the flattened tensors, int64; and for each column the
            least ratio of its cost to the archived one, (J,) float64.
        """
        columns = correct.shape[1]
        rows = max(1, _BLOCK // columns)
        cheaper, ratios = [torch.zeros(0, dtype=torch.int64)], []
        for start in range(0, len(correct), rows):
            least = self.least.index_select(0, correct[start : start + rows].flatten())
            ratio = cost[start : start + rows].flatten().div(least)
            if float(self.least[0]) == 0:  # a free point is no better than another
                ratio.nan_to_num_(nan=1.0, posinf=math.inf)
            ratios.append(ratio.view(-1, columns).amin(dim=0))
            if float(ratios[-1].min()) < 1 - _ROUNDING:
                cheaper.append((ratio < 1 - _ROUNDING).nonzero().squeeze(1) + start * columns)
        return torch.cat(cheaper), torch.stack(ratios).amin(dim=0)

    def offer(self, correct: Tensor, cost: Tensor, describe: Describe) -> Tensor:
        """Archive the points that are cheaper than all archived ones of at least their accuracy.

        Args:
            correct: as for `compare`.
            cost: as for `compare`.
            describe: maps S indices into the flattened points to stages, (S, K) int64, and limits,
                thresholds before floors, (S, 2 (K - 1)) float64.

        Returns:
            The ratios of `compare`.
        """
        rows, ratio = self.compare(correct, cost)
        if len(rows):
            self._add(correct.flatten()[rows], cost.flatten()[rows], *describe(rows))
        return ratio

    def _add(self, correct: Tensor, cost: Tensor, stages: Tensor, limits: Tensor) -> None:
        correct = correct.long()
        self.least.scatter_reduce_(0, correct, cost, "amin")
        self.least = self.least.flip(0).cummin(dim=0).values.flip(0)
        best = cost <= self.least[correct]
        self._kept.append((correct[best], cost[best], stages[best], limits[best]))

    def front(self) -> CascadeFront:
        """Return the front of all archived points. Of equal ones the first is kept."""
        points: dict[int, CascadePoint] = {}
        for correct, cost, stages, limits in self._kept:
            beyond = self.least[correct + 1] * (1 - _ROUNDING)
            top = (cost <= self.least[correct]) & (cost < beyond)
            columns = (column[top].tolist() for column in (correct, cost, stages, limits))
            for count, price, models, numbers in zip(*columns, strict=True):
                k = len(models) - 1
                point = CascadePoint(
                    tuple(models), tuple(numbers[:k]), tuple(numbers[k:]), price, count / self._n
                )
                points.setdefault(count, point)
        return CascadeFront(tuple(points[count] for count in sorted(points)))


class PerSample(NamedTuple):
    """Results of P cascades on each of N samples.

    Attributes:
        correct: whether the cascade is right, (P, N) bool.
        cost: cost of the stages that ran, (P, N) float64.
        stage: the stage that answered, (P, N) int64.
    """

    correct: Tensor
    cost: Tensor
    stage: Tensor


def evaluate_points(points: Sequence[CascadePoint], zoo: Zoo) -> PerSample:
    """Apply cascades to the samples of a zoo, which may differ from those they were chosen on.

    Args:
        points: stages, thresholds and floors; costs and accuracies are not read.
        zoo: the same models.
    """
    correct, costs, stages = [], [], []
    for point in points:
        stage = torch.zeros(zoo.n, dtype=torch.int64)
        if point.thresholds:
            scores = [
                zoo.score_of(point.stages[:k], model) for k, model in enumerate(point.stages[:-1])
            ]
            stage = route(scores, point.thresholds, point.floors)
        right, cost = torch.zeros(zoo.n, dtype=torch.bool), torch.zeros(zoo.n, dtype=torch.float64)
        for k, model in enumerate(point.stages):
            right |= (stage == k) & zoo.correct_after(point.stages[:k], [model])[0]
            cost += zoo.costs[model] * (stage >= k)
        correct.append(right)
        costs.append(cost)
        stages.append(stage)
    return PerSample(torch.stack(correct), torch.stack(costs), torch.stack(stages))
