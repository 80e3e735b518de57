"""Losses and learning-rate schedules for training a stage of a cascade."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from lit_cascade.core import answers_of
from lit_cascade.errors import UsageError

Schedule = Literal["one_cycle", "linear"]

SCHEDULES: tuple[str, ...] = get_args(Schedule)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Divergence of a student's softened probabilities from a teacher's (arXiv:1503.02531).

    T^2 KL(softmax(teacher / T) || softmax(student / T)), averaged over the batch. The factor T^2
    keeps the size of the gradients independent of the temperature.

    Args:
        logits: of the student, (N, C).
        teacher_logits: (N, C), the classes in the same order; no gradient flows into them.
        temperature: T > 0; larger ones give the less likely classes more weight.

    Returns:
        A scalar in nats, 0 where both give the same probabilities; float32 or better.

    Examples:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])
        >>> f"{distillation_loss(student, teacher):.4f}"  # 3/4 log(3/4 * 2) + 1/4 log(1/4 * 2)
        '0.1308'
    """
    student = log_softmax(_at_least_float32(logits) / temperature, dim=1)
    teacher = log_softmax(_at_least_float32(teacher_logits.detach()) / temperature, dim=1)
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    return temperature**2 * divergence.mean()


def gatekeeper_loss(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Loss for confidence where right and uncertainty where wrong (Gatekeeper, arXiv:2502.19335).

    alpha / N times the sum of the cross entropies of right answers, plus (1 - alpha) / N times the
    sum of KL(p || uniform) over wrong ones. N is the size of the whole batch. Which answers are
    right is not differentiated.

    Args:
        logits: (N, C).
        labels: (N,) integers from 0 to C - 1.
        alpha: 0 to 1; smaller ones trade accuracy for a confidence that separates right answers
            from wrong ones.

    Returns:
        A scalar in nats; float32 or better.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
        >>> labels = torch.tensor([0, 1])
        >>> f"{gatekeeper_loss(logits, labels, alpha=0.5):.4f}"  # 1/4 (0.2877 + 0.1308)
        '0.1046'
    """
    logits = _at_least_float32(logits)
    right = answers_of(logits.detach()) == labels
    entropy = cross_entropy(logits, labels, reduction="none")
    log_p = log_softmax(logits, dim=1)
    divergence = (log_p.exp() * log_p).sum(dim=1) + math.log(logits.shape[1])
    return (alpha * entropy).where(right, (1 - alpha) * divergence).mean()


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.element_size() >= 4 else logits.float()


def linear(step: int, steps: int, rising: int) -> float:
    """Share of the peak learning rate at a step: linear from 0 to 1, then back to 0.

    Args:
        step: counted from 0.
        steps: of the whole training.
        rising: number of steps before the peak.

    Examples:
        >>> [linear(step, steps=6, rising=2) for step in range(7)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < rising:
        return step / rising
    return max(0.0, (steps - step) / max(1, steps - rising))


def scheduler(
    optimizer: Optimizer, schedule: Schedule, steps: float, peak: float, warmup: float
) -> LRScheduler:
    """A learning-rate scheduler, stepped after every step of the optimizer.

    Args:
        optimizer: whose learning rate it sets.
        schedule: one of `SCHEDULES`.
        steps: of the whole training, as Lightning estimates them.
        peak: the largest learning rate.
        warmup: share of the steps for which a linear schedule rises, rounded up to whole steps.

    Raises:
        UsageError: the number of steps is unknown.
    """
    if steps < 1 or math.isinf(steps):  # Lightning returns -1 or inf if it is unknown
        raise UsageError(
            "trainer: the schedule of the learning rate needs to know the number of steps: set "
            "trainer.max_steps, or trainer.max_epochs where the data have a length."
        )
    total = int(steps)
    if schedule == "one_cycle":
        return OneCycleLR(optimizer, max_lr=peak, total_steps=total)
    rising = math.ceil(warmup * total)
    return LambdaLR(optimizer, lambda step: linear(step, total, rising))
