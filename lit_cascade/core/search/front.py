"""Pareto fronts of accuracy against cost, and the compute that one front saves over another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.utilities.drawing import BLUE, along_cost, axes_of, quiet
from lit_cascade.utilities.tabular import Tabular, described, spanned
from lit_cascade.utilities.units import (
    cost_figure,
    cost_heading,
    counted,
    metric_axis,
    percent,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# An accuracy is a count over n: this absorbs rounding, and admits no sample too few.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Front(Tabular):
    """Operating points of which none is both cheaper and more accurate than another.

    Attributes:
        cost: mean cost per sample, (P,) float64, strictly rising.
        accuracy: fraction of correct answers, (P,) float64, strictly rising.
    """

    cost: Tensor
    accuracy: Tensor

    @classmethod
    def of(cls, cost: Tensor, accuracy: Tensor) -> Front:
        """Return the front of points of any shape."""
        rows = pareto_rows(cost.flatten(), accuracy.flatten())
        return cls(cost.flatten()[rows], accuracy.flatten()[rows])

    def __len__(self) -> int:
        return len(self.cost)

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per point: `cost, accuracy`."""
        return {"cost": self.cost.tolist(), "accuracy": self.accuracy.tolist()}

    def plot(self, ax: Axes | None = None, *, unit: str = "cost", **style: Any) -> Axes:
        """Draw accuracy against cost.

        Args:
            ax: axes to draw on; by default those of a new figure.
            unit: of the cost.
            style: of the line, such as `label` and `color`, as for matplotlib's `Axes.plot`.

        Returns:
            The axes.
        """
        axes = axes_of(ax)
        # between two points there is no cascade, so the curve is a step
        look: dict[str, Any] = {
            "drawstyle": "steps-post",
            "color": BLUE,
            "linewidth": 2.0,
            "zorder": 3,
        }
        axes.plot(self.cost.tolist(), (100 * self.accuracy).tolist(), **(look | style))
        along_cost(axes, unit)
        axes.set_ylabel(metric_axis("accuracy"))
        quiet(axes, "both")
        return axes

    def __repr__(self) -> str:
        return described("Front", *self.figures())

    def figures(self, unit: str = "cost") -> list[str]:
        """Number of points, and ranges of accuracy and cost, in words."""
        if len(self) == 0:
            return ["no points"]
        # points reported on other samples than they were chosen on need not rise
        low, high = (percent(float(end), 2) for end in (self.accuracy.min(), self.accuracy.max()))
        ends = (self.cost.min(), self.cost.max())
        cheap, dear = (cost_figure(float(end), unit) for end in ends)
        return [
            counted(len(self), "point"),
            f"accuracy {spanned(low, high)}",
            f"{cost_heading(unit)} {spanned(cheap, dear)}",
        ]

    def first_row(self, accuracy: Tensor) -> Tensor:
        """Return the first row with at least an accuracy; the number of points if there is none.

        Args:
            accuracy: any shape, float64; (R, A) if the points are those of R fronts, (R, P).
        """
        return torch.searchsorted(self.accuracy, accuracy - _TOLERANCE)

    def least_cost(self, accuracy: Tensor) -> Tensor:
        """Return F(a), the least cost of a point with at least accuracy a; infinite if none.

        Args:
            accuracy: as for `first_row`.

        Examples:
            >>> front = Front(torch.tensor([1.0, 5.0]), torch.tensor([0.5, 0.9]))
            >>> front.least_cost(torch.tensor([0.4, 0.5, 0.6, 0.95]))
            tensor([1., 1., 5., inf])
        """
        rows = self.first_row(accuracy)
        beyond = self.cost.new_full((*self.cost.shape[:-1], 1), torch.inf)
        cost = torch.cat([self.cost, beyond], dim=-1)
        return cost[rows] if cost.ndim == 1 else cost.gather(-1, rows)

    def interpolated_cost(self, accuracy: Tensor) -> Tensor:
        """Return the cost between points, log-linear in accuracy.

        It is below `least_cost` everywhere between two points: no single model costs this little
        for that accuracy, but one might be trained.

        Args:
            accuracy: (A,) float64; clamped to the accuracies of the front.

        Examples:
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


def pareto_rows(cost: Tensor, accuracy: Tensor) -> Tensor:
    """Return the points that no other dominates, by sorting (Kung et al., 1975).

    A point dominates another if it is at most as costly and at least as accurate.

    Args:
        cost: (P,).
        accuracy: (P,).

    Returns:
        Their indices in order of cost, int64. Of equal points the first is kept.

    Examples:
        >>> pareto_rows(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.9, 0.5, 0.5]))
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
        low: lower end.
        high: upper end.
        name: name in tables.

    Raises:
        UsageError: the ends are not accuracies with `low < high`.
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
        """Return equally spaced accuracies, ends included, (count,) float64."""
        return torch.linspace(self.low, self.high, count, dtype=torch.float64)

    def within(self, *fronts: Front) -> Band:
        """Return the part of the band that all fronts reach, or a sliver at their common top."""
        high = min(self.high, *(float(front.accuracy[-1]) for front in fronts))
        high = max(high, _TOLERANCE / 2)  # where nothing is ever right
        return Band(max(0.0, min(self.low, high - 1e-6)), high, self.name)


def default_bands(singles: Front) -> list[Band]:
    """Return the top half and the top quarter of the accuracies of the single models' front.

    Raises:
        CascadeError: one model is both the cheapest and the most accurate.

    Examples:
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


def held_out_reduction(
    singles: Front, chosen: Front, reported: Front, band: Band, *, interpolated: bool = False
) -> Tensor:
    """Compute the average compute reduction of cascades on other samples than they were chosen on.

    For each of 1,000 equally spaced accuracies a of the band, take the cheapest cascade with at
    least accuracy a on the samples of the choice. On the samples of the report its accuracy is
    lower by a shortfall e, which may be negative. Divide the cost there of the cheapest single
    model with at least accuracy a - e (of the most accurate one if there is none) by the cost of
    the cascade, and average. If both sets of samples are the same, this is
    `average_compute_reduction`.

    Args:
        singles: front of the single models on the samples of the report, or R fronts (R, M).
        chosen: front of the cascades on the samples of the choice, (P,).
        reported: the same P cascades on the samples of the report, not a front; (P,) or (R, P).
        band: accuracies on the samples of the choice.
        interpolated: as for `average_compute_reduction`; for one front of single models only.

    Returns:
        A float64 scalar, or (R,).

    Examples:
        >>> half = torch.tensor([0.5, 0.9], dtype=torch.float64)
        >>> cascades = Front(torch.tensor([1.0, 3.0]), half)
        >>> worse = Front(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.4], dtype=torch.float64))
        >>> singles = Front(torch.tensor([1.0, 9.0]), half)
        >>> held_out_reduction(singles, cascades, worse, Band(0.7, 0.9))
        tensor(0.3333)
    """
    wanted = band.accuracies()
    rows = chosen.first_row(wanted).clamp(max=len(chosen) - 1)
    shortfall = chosen.accuracy[rows] - reported.accuracy.index_select(-1, rows)
    accuracy = wanted - shortfall
    if interpolated:
        cost = singles.interpolated_cost(accuracy)
    else:
        cost = torch.minimum(singles.least_cost(accuracy), singles.cost[..., -1:])
    other = reported.cost.index_select(-1, rows)
    free = (cost == 0) & (other == 0)
    return (cost / other).masked_fill(free, 1.0).mean(dim=-1)


def average_compute_reduction(
    singles: Front, cascades: Front, band: Band, *, interpolated: bool = False
) -> float:
    """Compute how many times less a cascade costs than a single model, on average over a band.

    The mean of F_single(a) / F_cascade(a) over 1,000 equally spaced accuracies a of the band, where
    F(a) is the least cost of an operating point with at least accuracy a ("Efficient Inference With
    Model Cascades", TMLR 2023).

    Args:
        singles: front of the single models.
        cascades: front of the cascades, which may include single models.
        band: range of accuracies.
        interpolated: use the log-linear interpolation between single models as F_single. This is
            stricter: by the step function, an accuracy just above that of one model costs as much
            as the next model.

    Raises:
        UsageError: the band reaches above the most accurate single model or cascade.

    Examples:
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
    return float(held_out_reduction(singles, cascades, cascades, band, interpolated=interpolated))
