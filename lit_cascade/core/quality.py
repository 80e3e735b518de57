"""How good a score is at telling which samples to defer, in three figures that need no threshold.

Only the order that a score puts samples in counts, so that scores of different ranges compare.
Where scores tie, the order among the tied is not known: each figure is then what is expected if it
is drawn by chance, so that a score cannot gain by saying less.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError

__all__ = [
    "DeferralCurve",
    "Quality",
    "aurc",
    "deferral_curve",
    "deferral_quality",
    "oracle_curve",
    "quality_of",
]


@dataclass(frozen=True)
class Quality:
    """How good a score is on D weightings of N samples; all tensors are (D,) float64.

    Attributes:
        area: the area between random (0) and oracle deferral (1) that the curve of accuracy against
            deferral rate leaves under it; NaN where the two coincide.
        aurc: area under the risk-coverage curve of the small model.
        cost_ratio: the least cost of a threshold at least as accurate as the large model, over the
            cost of that model; 1 where none is cheaper.
    """

    area: Tensor
    aurc: Tensor
    cost_ratio: Tensor


@dataclass(frozen=True)
class DeferralCurve:
    """Accuracy against deferral rate, from nothing deferred to everything; straight in between.

    Attributes:
        rate: share of the samples that are deferred, (M,) float64, rising from 0 to 1.
        accuracy: (M,) float64.
    """

    rate: Tensor
    accuracy: Tensor


def _check(scores: Tensor, *columns: Tensor) -> None:
    if scores.ndim != 1 or any(len(column) != len(scores) for column in columns):
        shapes = ", ".join(str(tuple(column.shape)) for column in columns)
        raise CascadeError(
            f"expected one score per sample, got scores of shape {tuple(scores.shape)} with "
            f"{shapes}."
        )
    if len(scores) == 0:
        raise CascadeError("no samples to judge a score on.")
    if scores.isnan().any():
        row = int(scores.isnan().nonzero()[0, 0])
        raise CascadeError(f"the score of sample {row} is NaN: it has no place in the order.")


def _groups(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Samples by rising score, (N,), and the last position of each group of equal ones, (M,)."""
    values, order = scores.sort(stable=True)
    _, counts = torch.unique_consecutive(values, return_counts=True)
    return order, counts.cumsum(0) - 1


def _after(values: Tensor, order: Tensor, ends: Tensor) -> Tensor:
    """Sums over the first 0, 1, ..., M groups, (D, M + 1), of values (D, N)."""
    sums = values[:, order].cumsum(1)[:, ends]
    return torch.cat([sums.new_zeros(len(sums), 1), sums], dim=1)


def quality_of(
    scores: Tensor, correct: Tensor, costs: Tensor, weights: Tensor | None = None
) -> Quality:
    """How good the score of a small model is for deferring to a large one.

    Args:
        scores: of the small model, (N,); larger is surer.
        correct: whether each of the two models is right, (N, 2) bool.
        costs: of the two models on each sample, (N, 2).
        weights: how often each sample counts, (D, N) integers with equal sums, as a bootstrap draws
            them; by default each once, and D is 1.

    Raises:
        CascadeError: no samples, NaN scores, a large model that costs nothing, or shapes that do
            not fit.

    Example:
        >>> found = quality_of(
        ...     scores=torch.tensor([0.9, 0.2, 0.8, 0.7]),
        ...     correct=torch.tensor([[True, True], [False, True], [True, True], [True, True]]),
        ...     costs=torch.tensor([[1.0, 10.0]]).expand(4, 2),
        ... )
        >>> found.area.tolist(), found.cost_ratio.tolist(), round(float(found.aurc), 4)
        ([1.0], [0.35], 0.0625)
    """
    _check(scores, correct, costs)
    if correct.shape != (len(scores), 2) or costs.shape != correct.shape:
        raise CascadeError(
            f"expected correctness and costs of two models, of shape {(len(scores), 2)}, got "
            f"{tuple(correct.shape)} and {tuple(costs.shape)}."
        )
    if not float(costs[:, 1].sum()) > 0:
        raise CascadeError("the large model costs nothing: a cascade cannot save anything.")
    ones = torch.ones(1, len(scores), dtype=torch.int64, device=scores.device)
    weights = ones if weights is None else weights
    order, ends = _groups(scores)
    gain = correct[:, 1].long() - correct[:, 0].long()
    seen = _after(weights, order, ends)
    gained = _after(weights * gain, order, ends)
    return Quality(
        area=_area(seen, gained, weights, gain),
        aurc=_aurc(scores, correct[:, 0], weights),
        cost_ratio=_cost_ratio(_after(weights * costs[:, 1], order, ends), gained, weights, costs),
    )


def _area(seen: Tensor, gained: Tensor, weights: Tensor, gain: Tensor) -> Tensor:
    # all of it in whole numbers: areas times 2 n^2, over the small model's accuracy
    n = seen[:, -1]
    own = (seen.diff(dim=1) * (gained[:, 1:] + gained[:, :-1])).sum(1)
    fixed, broken = (weights * (gain > 0)).sum(1), (weights * (gain < 0)).sum(1)
    chance = n * (fixed - broken)
    # the oracle's is p + p - p^2 - q^2 in these units, for shares p fixed and q broken
    oracle = 2 * n * fixed - fixed * fixed - broken * broken
    room = (oracle - chance).double()
    return torch.where(room > 0, (own - chance).double() / room, torch.nan)


def _aurc(scores: Tensor, correct: Tensor, weights: Tensor) -> Tensor:
    order, ends = _groups(-scores)
    n = int(weights[0].sum())
    seen = _after(weights, order, ends)
    wrong = _after(weights * ~correct, order, ends).double()
    harmonic = torch.zeros(n + 1, dtype=torch.float64, device=scores.device)
    harmonic[1:] = (1 / torch.arange(1, n + 1, dtype=torch.float64)).cumsum(0)
    # Of a group of m tied samples with e errors, after s samples with r errors, j are expected to
    # bring j e / m errors: the risk is (r + j e / m) / (s + j), summed over j = 1 ... m.
    errors, size = wrong.diff(dim=1), seen.diff(dim=1)
    share = torch.where(size > 0, errors / size.clamp(min=1), 0.0)
    before, steps = wrong[:, :-1] - share * seen[:, :-1], harmonic[seen].diff(dim=1)
    return (errors + before * steps).sum(1) / n


def _cost_ratio(spent: Tensor, gained: Tensor, weights: Tensor, costs: Tensor) -> Tensor:
    first = (weights * costs[:, 0]).double().sum(1, keepdim=True)
    last = (weights * costs[:, 1]).double().sum(1, keepdim=True)
    ratio = (first + spent) / last
    return torch.where(gained >= gained[:, -1:], ratio, 1.0).amin(1).clamp(max=1.0)


def deferral_quality(scores: Tensor, correct_small: Tensor, correct_large: Tensor) -> float:
    """Where the curve of accuracy against deferral rate lies between random and oracle deferral.

    (area of the score - area of random deferral) / (area of the oracle - area of random deferral).
    Random deferral is the straight line between the accuracies of the two models. The oracle defers
    first what only the large model has right and last what only the small one has.

    Args:
        scores: of the small model, (N,); larger is surer.
        correct_small: whether the small model is right, (N,) bool.
        correct_large: whether the large one is, (N,) bool.

    Returns:
        1 for the oracle, 0 for chance, below 0 for worse than chance; NaN where there is nothing to
        choose, because the oracle can do no better than chance.

    Raises:
        CascadeError: no samples, NaN scores, or shapes that do not fit.

    Example:
        >>> small, large = torch.tensor([True, False, False]), torch.tensor([True, True, False])
        >>> deferral_quality(torch.tensor([0.9, 0.1, 0.5]), small, large)
        1.0
        >>> deferral_quality(torch.tensor([0.5, 0.5, 0.5]), small, large)
        0.0
    """
    _check(scores, correct_small, correct_large)
    correct = torch.stack([correct_small, correct_large], dim=1).bool()
    return float(quality_of(scores, correct, torch.ones_like(correct, dtype=torch.float64)).area)


def aurc(scores: Tensor, correct: Tensor) -> float:
    """Area under the risk-coverage curve (arXiv:1805.08206); less is better.

    The risk at a coverage of k samples is the share of errors among the k with the highest scores;
    this is its mean over k = 1 ... N. It is about one model: that the larger one may have the same
    samples wrong it does not see.

    Args:
        scores: (N,); larger is surer.
        correct: whether the model is right, (N,) bool.

    Raises:
        CascadeError: no samples, NaN scores, or shapes that do not fit.

    Example:
        >>> round(aurc(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([True, True, False])), 4)
        0.1111
    """
    _check(scores, correct)
    weights = torch.ones(1, len(scores), dtype=torch.int64, device=scores.device)
    return float(_aurc(scores, correct.bool(), weights))


def deferral_curve(scores: Tensor, correct: Tensor) -> DeferralCurve:
    """Accuracy against deferral rate at every distinct threshold.

    Args:
        scores: of the small model, (N,).
        correct: whether each of the two models is right, (N, 2) bool.

    Raises:
        CascadeError: no samples, NaN scores, or shapes that do not fit.

    Example:
        >>> curve = deferral_curve(torch.tensor([0.9, 0.1]), torch.tensor([[1, 1], [0, 1]]).bool())
        >>> curve.rate.tolist(), curve.accuracy.tolist()
        ([0.0, 0.5, 1.0], [0.5, 1.0, 1.0])
    """
    _check(scores, correct)
    order, ends = _groups(scores)
    gain = correct[:, 1].long() - correct[:, 0].long()
    n, start = len(scores), correct[:, 0].sum()
    right = start + _after(gain[None], order, ends)[0]
    rate = torch.cat([ends.new_zeros(1), ends + 1])
    return DeferralCurve(rate.double() / n, right.double() / n)


def oracle_curve(correct: Tensor) -> DeferralCurve:
    """Accuracy against deferral rate of the best order there is, knowing the labels.

    Args:
        correct: whether each of the two models is right, (N, 2) bool.

    Example:
        >>> oracle_curve(torch.tensor([[True, False], [False, True]])).accuracy.tolist()
        [0.5, 1.0, 1.0, 0.5]
    """
    n = len(correct)
    fixed = int((~correct[:, 0] & correct[:, 1]).sum())
    broken = int((correct[:, 0] & ~correct[:, 1]).sum())
    start = int(correct[:, 0].sum())
    rate = torch.tensor([0, fixed, n - broken, n], dtype=torch.float64)
    right = torch.tensor([0, fixed, fixed, fixed - broken], dtype=torch.float64)
    return DeferralCurve(rate / n, (start + right) / n)
