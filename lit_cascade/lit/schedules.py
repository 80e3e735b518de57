"""How the learning rate goes over a training."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from lit_cascade.errors import UsageError

__all__ = ["SCHEDULES", "Schedule", "linear", "scheduled"]

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
