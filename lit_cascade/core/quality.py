"""Quality of a score for deferral: area under the deferral curve, AURC, cost at equal accuracy.

All three depend only on the order of the samples by score, so scores of different ranges can be
compared. Among samples with equal scores each is the expected value over a random order, so a score
gains nothing from ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core.curve import ScoreOrder
from lit_cascade.errors import CascadeError


@dataclass(frozen=True)
class Quality:
    """Quality of a score on D weightings of N samples; all tensors are (D,) float64.

    Attributes:
        area: area under accuracy against deferral rate, scaled so that random deferral has 0 and
            the oracle 1; NaN where the two coincide.
        aurc: area under the risk-coverage curve of the small model.
        cost_ratio: smallest cost of a threshold at least as accurate as the large model, over the
            cost of that model; 1 where none is cheaper.
    """

    area: Tensor
    aurc: Tensor
    cost_ratio: Tensor


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


def quality_of(
    scores: Tensor, correct: Tensor, costs: Tensor, weights: Tensor | None = None
) -> Quality:
    """Measure the quality of a small model's score for deferring to a large model.

    Args:
        scores: scores of the small model, (N,); larger is more confident.
        correct: whether each of the two models is right, (N, 2) bool.
        costs: cost of the two models, (N, 2).
        weights: multiplicity of each sample, (D, N) integers with equal sums, as drawn by a
            bootstrap; by default ones, with D = 1.

    Raises:
        CascadeError: no samples, NaN scores, a large model that costs nothing, or shapes that do
            not fit.

    Examples:
        >>> quality = quality_of(
        ...     scores=torch.tensor([0.9, 0.2, 0.8, 0.7]),
        ...     correct=torch.tensor([[True, True], [False, True], [True, True], [True, True]]),
        ...     costs=torch.tensor([[1.0, 10.0]]).expand(4, 2),
        ... )
        >>> quality.area.tolist(), quality.cost_ratio.tolist(), round(float(quality.aurc), 4)
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
    order = ScoreOrder.of(scores)
    gain = correct[:, 1].long() - correct[:, 0].long()
    seen, gained = order.sums(weights), order.sums(weights * gain)
    first, last = ((weights * cost).double().sum(1, keepdim=True) for cost in costs.unbind(dim=1))
    ratio = (first + order.sums(weights * costs[:, 1])) / last
    return Quality(
        area=_area(seen, gained, weights, gain),
        aurc=_aurc(scores, correct[:, 0], weights),
        cost_ratio=torch.where(gained >= gained[:, -1:], ratio, 1.0).amin(1).clamp(max=1.0),
    )


def _area(seen: Tensor, gained: Tensor, weights: Tensor, gain: Tensor) -> Tensor:
    # exact in integers: areas times 2 n^2, above the small model's accuracy
    n = seen[:, -1]
    own = (seen.diff(dim=1) * (gained[:, 1:] + gained[:, :-1])).sum(1)
    fixed, broken = (weights * (gain > 0)).sum(1), (weights * (gain < 0)).sum(1)
    chance = n * (fixed - broken)
    # 2 p - p^2 - q^2 in these units, for fractions p fixed and q broken
    oracle = 2 * n * fixed - fixed * fixed - broken * broken
    room = (oracle - chance).double()
    return torch.where(room > 0, (own - chance).double() / room, torch.nan)


def _aurc(scores: Tensor, correct: Tensor, weights: Tensor) -> Tensor:
    order, n = ScoreOrder.of(-scores), int(weights[0].sum())
    seen, wrong = order.sums(weights), order.sums(weights * ~correct).double()
    harmonic = torch.zeros(n + 1, dtype=torch.float64, device=scores.device)
    harmonic[1:] = (1 / torch.arange(1, n + 1, dtype=torch.float64)).cumsum(0)
    # A group of m tied samples with e errors follows s samples with r errors. Its first j samples
    # have j e / m errors in expectation: sum the risk (r + j e / m) / (s + j) over j = 1 ... m.
    errors, size = wrong.diff(dim=1), seen.diff(dim=1)
    share = torch.where(size > 0, errors / size.clamp(min=1), 0.0)
    before, steps = wrong[:, :-1] - share * seen[:, :-1], harmonic[seen].diff(dim=1)
    return (errors + before * steps).sum(1) / n


def deferral_quality(scores: Tensor, correct_small: Tensor, correct_large: Tensor) -> float:
    """Area under accuracy against deferral rate, scaled between random and oracle deferral.

    (area of the score - area of random deferral) / (area of the oracle - area of random deferral).
    Random deferral is the straight line between the accuracies of the two models. The oracle defers
    first the samples that only the large model gets right and last those that only the small model
    gets right.

    Args:
        scores: scores of the small model, (N,); larger is more confident.
        correct_small: whether the small model is right, (N,) bool.
        correct_large: whether the large model is right, (N,) bool.

    Returns:
        1 for the oracle, 0 for random deferral, negative if worse than random; NaN where the oracle
        is no better than random.

    Raises:
        CascadeError: no samples, NaN scores, or shapes that do not fit.

    Examples:
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
    """Area under the risk-coverage curve (Geifman et al., arXiv:1805.08206); smaller is better.

    The risk at a coverage of k samples is the error rate among the k samples with the highest
    scores; the area is its mean over k = 1 ... N. It describes one model and ignores whether a
    larger model gets the same samples wrong.

    Args:
        scores: (N,); larger is more confident.
        correct: whether the model is right, (N,) bool.

    Raises:
        CascadeError: no samples, NaN scores, or shapes that do not fit.

    Examples:
        >>> round(aurc(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([True, True, False])), 4)
        0.1111
    """
    _check(scores, correct)
    weights = torch.ones(1, len(scores), dtype=torch.int64, device=scores.device)
    return float(_aurc(scores, correct.bool(), weights))
