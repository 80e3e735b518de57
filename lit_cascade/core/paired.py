"""Paired bootstrap comparison of two cascades by their mean accuracy over all costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core.bootstrap import percentile_interval, resampled_counts
from lit_cascade.core.curve import departures
from lit_cascade.core.outcomes import StageOutcomes
from lit_cascade.errors import CascadeError

_AT_ONCE = 2**21  # weights in memory at once


def mean_accuracy(outcomes: StageOutcomes, weights: Tensor) -> Tensor:
    """Average the accuracy of a curve over the costs from nothing deferred to everything deferred.

    As in the curve, an accuracy holds until the cost of the next threshold is reached.

    Args:
        outcomes: of N samples with labels.
        weights: multiplicity of each sample, (R, N) float64.

    Returns:
        One average per row of weights, (R,) float64.

    Raises:
        CascadeError: there are no labels.
    """
    return _Steps.of(outcomes).mean_accuracy(weights)


@dataclass(frozen=True)
class _Steps:
    """A curve as E steps, in each of which a sample leaves a stage for the next.

    Attributes:
        sample: whose step it is, (E,) int64.
        gain: 1 where the next stage is right and the stage was wrong, -1 the other way round, else
            0, (E,) float64.
        cost: of the next stage, (E,) float64.
        begin: number of steps before those at the same threshold, (E,) int64; None where no two
            steps share one.
        right: whether the first stage is right, (N,) float64.
    """

    sample: Tensor
    gain: Tensor
    cost: Tensor
    begin: Tensor | None
    right: Tensor

    @classmethod
    def of(cls, outcomes: StageOutcomes) -> _Steps:
        correct, _ = outcomes.labelled("the mean accuracy")
        order, ends, _ = departures(outcomes.scores)
        begin = None
        if len(ends) < len(order):
            sizes = ends.diff(prepend=ends.new_tensor([-1]))
            begin = (ends + 1 - sizes).repeat_interleave(sizes)
        return cls(
            sample=order // outcomes.scores.shape[1],
            gain=correct.double().diff(dim=1).flatten()[order],
            cost=outcomes.costs.double()[:, 1:].flatten()[order],
            begin=begin,
            right=correct[:, 0].double(),
        )

    def mean_accuracy(self, weights: Tensor) -> Tensor:
        """As the function, for weights (R, N)."""
        # gather: an index of the last dimension alone takes five times as long
        drawn = weights.gather(1, self.sample.expand(len(weights), -1))
        gained = drawn.new_zeros(len(drawn), drawn.shape[1] + 1)
        torch.cumsum(drawn * self.gain, dim=1, out=gained[:, 1:])
        if self.begin is None:
            before = gained[:, :-1]
        else:
            before = gained.gather(1, self.begin.expand(len(drawn), -1))
        before += (weights @ self.right)[:, None]
        spent = drawn.mul_(self.cost)
        whole = spent.sum(dim=1).clamp(min=1e-300)
        return before.mul_(spent).sum(dim=1) / whole / weights.sum(dim=1)


def ranked_within(scores: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Replace scores by their ranks within each group of samples, scaled to 0 ... 1.

    Makes scores comparable between groups that were scaled differently. The order within a group
    is kept, also between stages. Equal scores get the mean of their ranks.

    Args:
        scores: (N, K - 1), finite or +inf, which is kept.
        groups: row numbers of each group; each row is in exactly one.

    Examples:
        >>> ranked_within(torch.tensor([[5.0], [7.0], [0.2], [0.1]]), [torch.tensor([0, 1]),
        ...     torch.tensor([2, 3])]).flatten().tolist()
        [0.25, 0.75, 0.75, 0.25]
    """
    ranks = torch.empty_like(scores, dtype=torch.float64)
    for rows in groups:
        part = scores[rows].double()
        distinct, place, counts = part.unique(return_inverse=True, return_counts=True)
        mean = (counts.cumsum(0).double() - counts.double() / 2) / part.numel()
        ranks[rows] = mean.masked_fill(distinct.isposinf(), torch.inf)[place]
    return ranks


@dataclass(frozen=True)
class AccuracyDifference:
    """Difference in mean accuracy of two cascades, with a bootstrap interval.

    Attributes:
        before: mean accuracy of the first cascade.
        after: mean accuracy of the second cascade.
        interval: 95 % percentile interval of `after - before`.
    """

    before: float
    after: float
    interval: tuple[float, float]

    @property
    def value(self) -> float:
        """`after - before`."""
        return self.after - self.before

    @property
    def better(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.interval[0] > 0

    @property
    def worse(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.interval[1] < 0


def paired_difference(
    before: StageOutcomes, after: StageOutcomes, resamples: int = 1000, seed: int = 0
) -> AccuracyDifference:
    """Compare two cascades on the same samples by a paired bootstrap of their mean accuracy.

    Each resample draws N samples with replacement, the same for both cascades.

    Args:
        before: outcomes of the first cascade on N samples.
        after: outcomes of the second cascade on the same samples.
        resamples: number of resamples.
        seed: seed of the resamples.

    Raises:
        CascadeError: different numbers of samples, or nothing can be deferred.

    Examples:
        >>> right = torch.tensor([[k < 50, True] for k in range(100)])
        >>> costs = torch.tensor([[1.0, 9.0]]).expand(100, 2)
        >>> guesses = StageOutcomes(torch.rand(100, 1), right, costs)
        >>> knows = StageOutcomes(torch.linspace(1, 0, 100)[:, None], right, costs)
        >>> difference = paired_difference(guesses, knows)
        >>> difference.better, round(difference.after, 3)
        (True, 0.873)
    """
    n = len(before)
    if len(after) != n:
        raise CascadeError(f"expected two cascades of {n} samples, got {len(after)}.")
    if not bool((before.scores < torch.inf).any() and (after.scores < torch.inf).any()):
        raise CascadeError("no sample is ever deferred: there is no curve to compare.")
    ones = torch.ones(1, n, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _AT_ONCE // n)
    curves = [_Steps.of(outcomes) for outcomes in (before, after)]
    # filled in place: small results among large temporaries would fragment the memory
    differences = torch.empty(resamples, dtype=torch.float64)
    for some in differences.split(rows):
        weights = resampled_counts(n, len(some), generator)
        one, other = (curve.mean_accuracy(weights) for curve in curves)
        some.copy_(other - one)
    first, second = (float(curve.mean_accuracy(ones)) for curve in curves)
    return AccuracyDifference(
        before=first,
        after=second,
        interval=percentile_interval(differences),
    )
