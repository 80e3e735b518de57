"""Two curves of cascades of the same samples: how much better one is, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError

__all__ = ["Difference", "Played", "paired_difference", "ranked_within"]

_AT_ONCE = 2**22


@dataclass(frozen=True)
class Played:
    """What a sweep needs of N samples and K stages.

    Attributes:
        scores: of the deferring stages, (N, K - 1), finite or +inf.
        correct: whether the cascade is right if it stops after each stage, (N, K) bool.
        costs: of each stage, (N, K).
    """

    scores: Tensor
    correct: Tensor
    costs: Tensor

    def mean_accuracy(self, weights: Tensor) -> Tensor:
        """Accuracy at every cost, averaged over the costs that the first stage does not need.

        The costs go from nothing deferred to everything deferred. An accuracy holds until the next
        threshold is paid for, as in the curve.

        Args:
            weights: how often each sample counts, (R, N) float64.

        Returns:
            One average per row of weights, (R,) float64.
        """
        # as in a sweep: a sample leaves a stage once the threshold exceeds its best score so far
        leaves_at = self.scores.double().cummax(dim=1).values
        values, order = leaves_at.flatten().sort(stable=True)
        values = values[: int((values < torch.inf).sum())]
        order = order[: len(values)]
        counts = torch.unique_consecutive(values, return_counts=True)[1]
        ends = counts.cumsum(0) - 1
        sample = order // self.scores.shape[1]
        gain = self.correct.double().diff(dim=1).flatten()[order]
        cost = self.costs.double()[:, 1:].flatten()[order]
        start = weights @ self.correct[:, 0].double()
        weighed = weights[:, sample]
        spent = (weighed * cost).cumsum(dim=1)[:, ends]
        gained = (weighed * gain).cumsum(dim=1)[:, ends]
        # of a step the accuracy is that before it
        before = torch.cat([torch.zeros_like(start)[:, None], gained[:, :-1]], dim=1)
        steps = torch.cat([spent[:, :1], spent.diff(dim=1)], dim=1)
        area = ((start[:, None] + before) * steps).sum(dim=1)
        return area / spent[:, -1].clamp(min=1e-300) / weights.sum(dim=1)


def ranked_within(scores: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Scores as shares of the scores that are lower, within each group of samples.

    Scores of groups that were scaled differently cannot be compared; those within a group keep
    their order, and stages theirs towards each other. Equal scores share the mean of their ranks.

    Args:
        scores: (N, K - 1), finite or +inf, which stays.
        groups: rows of each group; each row is in one.

    Example:
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
class Difference:
    """How much more accurate one cascade is than another, averaged over all costs.

    Attributes:
        before: mean accuracy of the one.
        after: of the other.
        interval: the middle 95 % of `after - before` over bootstrap resamples of the samples.
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
        """Whether the other is better beyond what the draw of the samples explains."""
        return self.interval[0] > 0

    @property
    def worse(self) -> bool:
        """The same for worse."""
        return self.interval[1] < 0


def paired_difference(
    before: Played, after: Played, resamples: int = 1000, seed: int = 0
) -> Difference:
    """Compare two cascades of the same samples by their mean accuracy over all costs.

    Each resample draws as many samples as there are, with replacement, the same for both.

    Args:
        before: the one, N samples.
        after: the other, of the same samples.
        resamples: how many to draw.
        seed: of the drawing.

    Raises:
        CascadeError: they are of different numbers of samples, or nothing can be deferred.

    Example:
        >>> right = torch.tensor([[k < 50, True] for k in range(100)])
        >>> costs = torch.tensor([[1.0, 9.0]]).expand(100, 2)
        >>> knows, guesses = torch.linspace(1, 0, 100)[:, None], torch.rand(100, 1)
        >>> found = paired_difference(Played(guesses, right, costs), Played(knows, right, costs))
        >>> found.better, round(found.after, 3)
        (True, 0.873)
    """
    n = len(before.correct)
    if len(after.correct) != n:
        raise CascadeError(f"expected two cascades of {n} samples, got {len(after.correct)}.")
    if not bool((before.scores < torch.inf).any() and (after.scores < torch.inf).any()):
        raise CascadeError("no sample is ever deferred: there is no curve to compare.")
    ones = torch.ones(1, n, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _AT_ONCE // n)
    found = []
    for start in range(0, resamples, rows):
        drawn = torch.randint(0, n, (min(rows, resamples - start), n), generator=generator)
        weights = torch.zeros(drawn.shape, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones_like(weights))
        found.append(after.mean_accuracy(weights) - before.mean_accuracy(weights))
    ends = torch.cat(found).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return Difference(
        before=float(before.mean_accuracy(ones)),
        after=float(after.mean_accuracy(ones)),
        interval=(float(ends[0]), float(ends[1])),
    )
