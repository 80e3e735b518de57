"""Which answers are right, where a sample may have one label or several."""

from __future__ import annotations

from torch import Tensor

__all__ = ["is_among_best", "is_right", "likeliest_labels"]


def is_right(answers: Tensor, labels: Tensor) -> Tensor:
    """Whether each answer is among the labels of its sample.

    Args:
        answers: (N,) integers.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.

    Returns:
        (N,) bool.

    Example:
        >>> import torch
        >>> is_right(torch.tensor([1, 2]), torch.tensor([[0, 1], [0, -1]]))
        tensor([ True, False])
    """
    if labels.ndim == 1:
        return answers == labels
    return (answers[:, None] == labels).any(dim=1)


def likeliest_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """One label per sample: of several that are right, the one with the largest logit.

    An answer is among the labels if and only if it is this one, so that whatever needs one label
    per sample, as a temperature or a calibration error does, may be asked with these. A
    temperature does not change them.

    Args:
        logits: (N, C).
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.

    Returns:
        (N,) int64.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[3.0, 1.0, 2.0]])
        >>> likeliest_labels(logits, torch.tensor([[1, 2, -1]]))
        tensor([2])
    """
    if labels.ndim == 1:
        return labels
    found = logits.gather(1, labels.clamp(min=0)).float()
    # the first of equal ones in class order, as answers have it
    ordered = labels.masked_fill(labels < 0, logits.shape[1]).sort(dim=1)
    found = found.gather(1, ordered.indices).masked_fill(
        ordered.values == logits.shape[1], -float("inf")
    )
    return ordered.values.gather(1, found.argmax(dim=1, keepdim=True)).squeeze(1)


def is_among_best(logits: Tensor, labels: Tensor, k: int = 5) -> Tensor:
    """Whether a label of each sample is among the classes of the k largest logits.

    Args:
        logits: (N, C) with C >= k.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.
        k: how many answers there are.

    Returns:
        (N,) bool.

    Example:
        >>> import torch
        >>> is_among_best(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2]), k=2)
        tensor([True])
    """
    best = logits.topk(k, dim=1).indices
    several = labels[:, None] if labels.ndim == 1 else labels
    return (best[:, :, None] == several[:, None, :]).any(dim=2).any(dim=1)
