"""Losses for a stage of a cascade: learning from a larger model, and knowing what not to answer."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from lit_cascade.core import answers_of
from lit_cascade.errors import UsageError

__all__ = ["SCHEDULES", "Schedule", "distillation_loss", "gatekeeper_loss", "linear", "scheduled"]


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """How far a student's softened probabilities are from a teacher's (arXiv:1503.02531).

    T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch. The factor T^2
    keeps the size of the gradients the same whatever the temperature.

    Args:
        logits: of the student, (N, C).
        teacher_logits: (N, C), the classes in the same order; no gradient flows into them.
        temperature: T > 0; at larger ones the less likely classes count for more.

    Returns:
        A number in nats, 0 where both give the same probabilities; float32 or better.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])
        >>> f"{distillation_loss(student, teacher):.4f}"  # 3/4 log(3/4 * 2) + 1/4 log(1/4 * 2)
        '0.1308'
    """
    student = log_softmax(_precise(logits) / temperature, dim=1)
    teacher = log_softmax(_precise(teacher_logits.detach()) / temperature, dim=1)
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    return temperature**2 * divergence.mean()


def gatekeeper_loss(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Be sure where right and unsure where wrong (Gatekeeper, arXiv:2502.19335).

    alpha / N times the sum of the cross entropies of the right answers, plus (1 - alpha) / N times
    the sum over the wrong ones of KL(p || uniform). Both sums are divided by the size N of the
    whole batch. Which answers are right is taken as given: it is not differentiated.

    Args:
        logits: (N, C).
        labels: (N,) integers from 0 to C - 1.
        alpha: 0 to 1; smaller ones give up more accuracy for a confidence that tells right answers
            from wrong ones.

    Returns:
        A number in nats; float32 or better.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
        >>> labels = torch.tensor([0, 1])
        >>> f"{gatekeeper_loss(logits, labels, alpha=0.5):.4f}"  # 1/4 (0.2877 + 0.1308)
        '0.1046'
    """
    logits = _precise(logits)
    right = answers_of(logits.detach()) == labels
    surprise = cross_entropy(logits, labels, reduction="none")
    log_p = log_softmax(logits, dim=1)
    sureness = (log_p.exp() * log_p).sum(dim=1) + math.log(logits.shape[1])
    return (alpha * surprise).where(right, (1 - alpha) * sureness).mean()


def _precise(logits: Tensor) -> Tensor:
    """Logits in which sums of small probabilities keep their digits."""
    return logits if logits.element_size() >= 4 else logits.float()


Schedule = Literal["one_cycle", "linear"]

SCHEDULES: tuple[str, ...] = get_args(Schedule)


def linear(step: int, steps: int, rising: int) -> float:
    """Share of the peak at a step: up from 0 in a straight line, and down to 0 in another.

    Args:
        step: counted from 0.
        steps: of the whole training.
        rising: of them, before the peak.

    Example:
        >>> [linear(step, steps=6, rising=2) for step in range(7)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < rising:
        return step / rising
    return max(0.0, (steps - step) / max(1, steps - rising))


def scheduled(
    optimizer: Optimizer, schedule: Schedule, steps: float, peak: float, warmup: float
) -> LRScheduler:
    """A scheduler to be stepped with every step of an optimizer.

    Args:
        optimizer: whose learning rate it sets.
        schedule: one of `SCHEDULES`.
        steps: of the whole training, as Lightning estimates them.
        peak: the largest learning rate.
        warmup: share of the steps that a linear schedule rises for, rounded up to whole ones.

    Raises:
        UsageError: the number of steps is unknown.
    """
    if steps < 1 or math.isinf(steps):  # -1 and inf are how Lightning says that it is unknown
        raise UsageError(
            "trainer: the schedule of the learning rate needs to know the number of steps: set "
            "trainer.max_steps, or trainer.max_epochs where the data have a length."
        )
    total = int(steps)
    if schedule == "one_cycle":
        return OneCycleLR(optimizer, max_lr=peak, total_steps=total)
    rising = math.ceil(warmup * total)
    return LambdaLR(optimizer, lambda step: linear(step, total, rising))
