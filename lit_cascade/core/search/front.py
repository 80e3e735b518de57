"""The Pareto front of accuracy against cost, and how much less one front costs than another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError

__all__ = [
    "Band",
    "Front",
    "average_compute_reduction",
    "default_bands",
    "pareto",
    "times_less",
]

# An accuracy is a count over n: this absorbs rounding, and admits no sample too few.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Front:
    """Points of which none is both cheaper and more accurate than another.

    Attributes:
        cost: mean cost per sample, (P,) float64, strictly rising.
        accuracy: share of correct answers, (P,) float64, strictly rising.
    """

    cost: Tensor
    accuracy: Tensor

    def __len__(self) -> int:
        return len(self.cost)

    def least_cost(self, accuracy: Tensor) -> Tensor:
        """F(a): the least cost of any point with at least an accuracy; infinite if there is none.

        Args:
            accuracy: any shape, float64; (R, A) where the points are of R fronts, (R, P).

        Example:
            >>> front = Front(torch.tensor([1.0, 5.0]), torch.tensor([0.5, 0.9]))
            >>> front.least_cost(torch.tensor([0.4, 0.5, 0.6, 0.95]))
            tensor([1., 1., 5., inf])
        """
        at = torch.searchsorted(self.accuracy, accuracy - _TOLERANCE)
        beyond = torch.cat(
            [self.cost, self.cost.new_full((*self.cost.shape[:-1], 1), torch.inf)], -1
        )
        return beyond[at] if beyond.ndim == 1 else beyond.gather(-1, at)

    def interpolated_cost(self, accuracy: Tensor) -> Tensor:
        """The cost between points, linear in accuracy on a logarithmic scale of cost.

        It is below `least_cost` everywhere between two points: no single model costs this little
        for that accuracy, but one might be made.

        Args:
            accuracy: (A,) float64; outside the front as at its nearer end.

        Example:
            >>> front = Front(torch.tensor([1.0, 100.0]), torch.tensor([0.5, 0.9]))
            >>> round(float(front.interpolated_cost(torch.tensor([0.7]))), 3)
            10.0
        """
        accuracy = accuracy.clamp(self.accuracy[0], self.accuracy[-1])
        right = torch.searchsorted(self.accuracy, accuracy).clamp(1, max(1, len(self) - 1))
        if len(self) == 1:
            return self.cost.expand(accuracy.shape).clone()
        low, high = self.accuracy[right - 1], self.accuracy[right]
        share = (accuracy - low) / (high - low)
        between = self.cost[right - 1].log() * (1 - share) + self.cost[right].log() * share
        return torch.where(share < 1, between.exp(), self.cost[right])  # 0 * log(0) is NaN


def pareto(cost: Tensor, accuracy: Tensor) -> Tensor:
    """The points that no other is both at most as costly and at least as accurate as.

    Args:
        cost: (P,).
        accuracy: (P,).

    Returns:
        Their indices in order of cost, int64. Of equal points the first is kept.

    Example:
        >>> pareto(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.9, 0.5, 0.5]))
        tensor([1, 0])
    """
    order = accuracy.sort(descending=True, stable=True).indices
    order = order[cost[order].sort(stable=True).indices]
    best = accuracy[order].cummax(dim=0).values
    rises = torch.ones_like(best, dtype=torch.bool)
    rises[1:] = best[1:] > best[:-1]
    return order[rises]


@dataclass(frozen=True)
class Band:
    """A range of accuracies.

    Attributes:
        low: where it begins.
        high: where it ends.
        name: what to call it.

    Raises:
        UsageError: `low` is not below `high`, or they are no accuracies.
    """

    low: float
    high: float
    name: str = ""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.low < self.high <= 1:
            raise UsageError(
                f"bands: expected two accuracies with 0 <= low < high <= 1, "
                f"got {self.low:g} to {self.high:g}."
            )

    def accuracies(self, count: int = 1000) -> Tensor:
        """Equally spaced accuracies from end to end, (count,) float64."""
        return torch.linspace(self.low, self.high, count, dtype=torch.float64)

    def within(self, *fronts: Front) -> Band:
        """The part of the band that all fronts reach, or the uppermost that they do."""
        high = min(self.high, *(float(front.accuracy[-1]) for front in fronts))
        high = max(high, _TOLERANCE / 2)  # where nothing is ever right
        return Band(max(0.0, min(self.low, high - 1e-6)), high, self.name)


def times_less(cost: Tensor, other: Tensor) -> Tensor:
    """How many times less than the first cost the second is: 1 where both are 0.

    Example:
        >>> times_less(torch.tensor([6.0, 0.0, 0.0, 2.0]), torch.tensor([2.0, 0.0, 2.0, 0.0]))
        tensor([3., 1., 0., inf])
    """
    return (cost / other).masked_fill((cost == 0) & (other == 0), 1.0)


def default_bands(singles: Front) -> list[Band]:
    """The top half and the top quarter of the accuracies of the single models' front.

    Raises:
        CascadeError: one model is both the cheapest and the most accurate.

    Example:
        >>> front = Front(torch.tensor([1.0, 9.0]), torch.tensor([0.5, 0.9]))
        >>> [(round(band.low, 6), round(band.high, 6)) for band in default_bands(front)]
        [(0.7, 0.9), (0.8, 0.9)]
    """
    low, high = float(singles.accuracy[0]), float(singles.accuracy[-1])
    if len(singles) < 2:
        raise CascadeError(
            "one model is both the cheapest and the most accurate: there is nothing to trade off."
        )
    names = (("top half", 1 / 2), ("top quarter", 1 / 4))
    return [Band(high - share * (high - low), high, name) for name, share in names]


def average_compute_reduction(
    singles: Front, cascades: Front, band: Band, *, interpolated: bool = False
) -> float:
    """How many times less a cascade costs than a single model, on average over a band.

    The mean over 1,000 equally spaced accuracies `a` of the band of `F_single(a) / F_cascade(a)`,
    where F(a) is the least cost of any operating point with accuracy at least `a`. The figure of
    "Efficient Inference With Model Cascades" (TMLR 2023).

    Args:
        singles: front of the single models.
        cascades: front of the cascades, which single models may be part of.
        band: of accuracies.
        interpolated: take for F_single the log-linear interpolation between single models instead.
            It is stricter: a step function makes an accuracy a hair above a model's cost as much as
            the next model.

    Raises:
        UsageError: the band reaches above the most accurate single model or cascade.

    Example:
        >>> accuracies = torch.tensor([0.5, 0.9], dtype=torch.float64)
        >>> singles = Front(torch.tensor([1.0, 9.0]), accuracies)
        >>> cascades = Front(torch.tensor([1.0, 3.0]), accuracies)
        >>> round(average_compute_reduction(singles, cascades, Band(0.7, 0.9)), 6)
        3.0
    """
    for what, front in (("single models", singles), ("cascades", cascades)):
        best = float(front.accuracy[-1])
        if band.high > best + _TOLERANCE:
            raise UsageError(
                f"bands: {band.low:g} to {band.high:g} reaches above the most accurate of the "
                f"{what}, {best:.4f}."
            )
    accuracies = band.accuracies()
    single = (singles.interpolated_cost if interpolated else singles.least_cost)(accuracies)
    return float(times_less(single, cascades.least_cost(accuracies)).mean())
