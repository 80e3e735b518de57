"""Detection of models whose classes are numbered in another order than the labels."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST_CLASSES = 2000
"""Largest number of classes; the confusion matrix holds its square."""

_FAR_BETTER = 0.1
"""Least gain in accuracy that is reported."""


def rates_renumbered(
    prediction: Tensor, labels: Tensor, classes: int
) -> tuple[float, float] | None:
    """Accuracy as it is and with the classes of a model in another order, if that is far better.

    The order is found on every other sample with one right label, and judged on the rest, of which
    it must get most right.

    Args:
        prediction: numbers below `classes`, (N,) int64.
        labels: (N,) int64, or (N, M) with -1 as padding.
        classes: their number.
    """
    if classes > _MOST_CLASSES:
        return None
    if labels.ndim == 2:
        one = (labels >= 0).sum(dim=1) == 1
        prediction, labels = prediction[one], labels[one].amax(dim=1)
    if not len(labels) or bool((labels < 0).any()) or int(labels.max()) >= classes:
        return None  # wrong labels have a message of their own
    here, there = slice(0, None, 2), slice(1, None, 2)
    pairs = torch.bincount(prediction[here] * classes + labels[here], minlength=classes**2)
    table = pairs.reshape(classes, classes)
    right = float((prediction == labels)[there].double().mean())

    def after(order: Tensor) -> float:
        return float((order[prediction[there]] == labels[there]).double().mean())

    if not after(table.argmax(dim=1)) > right + _FAR_BETTER:
        return None
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - scipy takes a while to load

    _, order = linear_sum_assignment(table.numpy(), maximize=True)
    better = after(torch.from_numpy(order))
    return (right, better) if better > max(right + _FAR_BETTER, 0.5) else None
