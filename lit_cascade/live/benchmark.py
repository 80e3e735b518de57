"""How fast a cascade is, against what its arithmetic allows.

A cascade of which a share p_k of the samples reaches stage k can at best take the sum of p_k t_k
per sample, t_k being what stage k takes alone. Ratios are made within a repeat, in which everything
was timed side by side (`timing`).

How a cascade is timed: side by side with its stages, on batches that are on its device already.

In each repeat every stage alone and the cascade at every policy run over the same batches, so that
a machine that is slow for a while slows them all; `speed` makes the ratios within a repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_cascade.core import Policy, answers_here, answers_of
from lit_cascade.errors import CascadeError
from lit_cascade.live.batch import Inputs, batch_size, map_tensors
from lit_cascade.live.cascade import Cascade
from lit_cascade.live.stream import GATHER, Stream

__all__ = [
    "Latency",
    "Pace",
    "Speed",
    "at_policy",
    "latencies",
    "own_overhead",
    "pace",
    "shares",
    "thresholds_at",
    "throughput",
]


class Pace(NamedTuple):
    """Seconds per sample, one number per repeat.

    Attributes:
        seconds: per sample, in the order of the repeats.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the repeats."""
        return median(self.seconds)


class Latency(NamedTuple):
    """Seconds that single samples take.

    Attributes:
        p50: half of them take no longer.
        p99: of a hundred, all but one.
    """

    p50: float
    p99: float


@dataclass(frozen=True)
class Speed:
    """How fast a cascade was at one policy, and how fast its stages were alone.

    Attributes:
        thresholds: of the policy.
        reached: share of the samples that each stage ran on.
        stages: pace of each stage alone, timed in the same repeats.
        cascade: pace of the cascade.
        latency: of single samples, if that was measured.
    """

    thresholds: tuple[float, ...]
    reached: tuple[float, ...]
    stages: tuple[Pace, ...]
    cascade: Pace
    latency: Latency | None = field(default=None)

    @property
    def deferral_rate(self) -> float:
        """Share of the samples that the first stage deferred."""
        return self.reached[1]

    @property
    def ideal(self) -> Pace:
        """What the cascade would take if it spent time in its stages only."""
        return Pace(
            tuple(
                sum(share * seconds for share, seconds in zip(self.reached, stages, strict=True))
                for stages in zip(*(stage.seconds for stage in self.stages), strict=True)
            )
        )

    @property
    def of_ideal(self) -> tuple[float, float, float]:
        """Ideal over realised time: median, least and greatest of the repeats; 1 is perfect."""
        return _spread(self.ideal.seconds, self.cascade.seconds)

    @property
    def speedup(self) -> tuple[float, float, float]:
        """Time of the last stage alone over that of the cascade: median, least and greatest."""
        return _spread(self.stages[-1].seconds, self.cascade.seconds)

    @property
    def ideal_speedup(self) -> float:
        """The same for the ideal, the median of the repeats."""
        return _spread(self.stages[-1].seconds, self.ideal.seconds)[0]


def _spread(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    return median(ratios), ratios[0], ratios[-1]


def _wait(device: torch.device) -> None:
    """Let a device finish what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _device(cascade: nn.Module) -> torch.device:
    return next((one.device for one in cascade.parameters()), torch.device("cpu"))


@contextmanager
def at_policy(cascade: Cascade, policy: Policy) -> Iterator[None]:
    """Give a cascade another policy for a while."""
    before, cascade.policy = cascade.policy, policy
    try:
        yield
    finally:
        cascade.policy = before


def pace(
    runs: Sequence[Callable[[], object]], samples: int, repeats: int, device: torch.device
) -> list[Pace]:
    """Time several things side by side, each once per repeat, after running each once to warm up.

    Args:
        runs: what to time; each works on as many samples.
        samples: that is.
        repeats: how often.
        device: on which they run.
    """
    found: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for kept, run in zip(found, runs, strict=True):
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            if repeat:
                kept.append((time.perf_counter() - start) / samples)
    return [Pace(tuple(seconds)) for seconds in found]


def thresholds_at(cascade: Cascade, batches: Sequence[Inputs], rate: float) -> tuple[float, ...]:
    """Thresholds at which each stage defers a share of the samples that it is given.

    Args:
        cascade: its score and temperatures count, its thresholds do not.
        batches: the samples, on the device of the cascade.
        rate: the share; ties in the scores make it less.

    Example:
        >>> scores = torch.log(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]]))
        >>> cascade = Cascade([nn.Identity(), nn.Identity()], Policy((0.5,)))
        >>> round(thresholds_at(cascade, [scores], 0.5)[0], 2)
        0.8
    """
    found: list[float] = []
    left = torch.arange(sum(batch_size(batch) for batch in batches))
    for k in range(len(cascade.stages) - 1):
        said = [cascade.policy.score_and_answer(k, cascade.run_stage(k, one)) for one in batches]
        scores = torch.cat([score for score, _ in said]).cpu()[left]
        if len(scores) == 0:
            raise CascadeError(f"nothing is left for stage {cascade.names[k]!r} to defer.")
        ordered = scores.sort().values
        place = min(round(rate * len(ordered)), len(ordered) - 1)
        threshold = float(ordered[place])
        found.append(threshold)
        left = left[~answers_here(scores, threshold)]
    return tuple(found)


def throughput(
    cascade: Cascade,
    batches: Sequence[Inputs],
    thresholds: Sequence[tuple[float, ...]],
    repeats: int = 5,
    gather: int = GATHER,
) -> list[Speed]:
    """Pace of a cascade on batches that are on its device already, the models alone.

    Args:
        cascade: in evaluation mode.
        batches: samples, alike in shape.
        thresholds: of each policy to time.
        repeats: how often everything is timed.
        gather: batches whose deferred samples are gathered.
    """
    n, device = sum(batch_size(batch) for batch in batches), _device(cascade)
    reached: dict[int, tuple[float, ...]] = {}

    def alone(k: int) -> Callable[[], object]:
        return lambda: [answers_of(cascade.run_stage(k, batch)) for batch in batches]

    def together(i: int, values: tuple[float, ...]) -> Callable[[], object]:
        def run() -> None:
            with at_policy(cascade, replace(cascade.policy, thresholds=values)):
                found = list(Stream(cascade, gather).run(batches))
            reached[i] = shares(torch.cat([one.output.stage for one in found]), len(cascade.stages))

        return run

    stages = [alone(k) for k in range(len(cascade.stages))]
    policies = [together(i, values) for i, values in enumerate(thresholds)]
    with torch.inference_mode():
        paces = pace([*stages, *policies], n, repeats, device)
    alones = tuple(paces[: len(stages)])
    return [
        Speed(values, reached[i], alones, paces[len(stages) + i])
        for i, values in enumerate(thresholds)
    ]


def shares(stage: Tensor, stages: int) -> tuple[float, ...]:
    """Share of the samples that each stage ran on, from the stage that answered each."""
    counts = torch.bincount(stage.cpu(), minlength=stages)
    return tuple((counts.flip(0).cumsum(0).flip(0) / len(stage)).tolist())


def latencies(
    cascade: Cascade, samples: Inputs, thresholds: Sequence[tuple[float, ...]], repeats: int = 5
) -> tuple[list[Latency], list[Latency]]:
    """Latency of each stage alone and of the cascade at each policy, one sample at a time.

    Args:
        cascade: in evaluation mode.
        samples: a batch, on its device.
        thresholds: of each policy.
        repeats: how often each sample is timed; the median counts for it.

    Returns:
        One per stage, and one per policy.
    """
    device = _device(cascade)
    ones = [map_tensors(samples, slice(i, i + 1)) for i in range(batch_size(samples))]

    def timed(run: Callable[[Inputs], object]) -> Latency:
        seconds = []
        for one in [*ones[:3], *ones]:
            tries = []
            for _ in range(repeats):
                _wait(device)
                start = time.perf_counter()
                run(one)
                _wait(device)
                tries.append(time.perf_counter() - start)
            seconds.append(median(tries))
        values = torch.tensor(seconds[len(ones[:3]) :], dtype=torch.float64)
        return Latency(float(values.quantile(0.5)), float(values.quantile(0.99)))

    with torch.inference_mode():
        alone = [
            timed(lambda one, k=k: answers_of(cascade.run_stage(k, one)))  # type: ignore[misc]
            for k in range(len(cascade.stages))
        ]
        found = []
        for values in thresholds:
            with at_policy(cascade, replace(cascade.policy, thresholds=values)):
                found.append(timed(cascade))
    return alone, found


class _Given(nn.Module):
    """A stage that takes no time: its logits are made already."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs: Tensor) -> Tensor:
        del inputs
        return self.logits


def own_overhead(policy: Policy, classes: int, repeats: int = 2000) -> tuple[float, float]:
    """Seconds that a cascade of two stages itself spends on one sample on the CPU, at batch size 1.

    Its stages take no time here, so that all there is to time is the cascade.

    Args:
        policy: its score and combination count.
        classes: number of logits.
        repeats: calls to time; the median counts.

    Returns:
        Where the first stage answers, and where it defers.
    """
    logits = torch.randn(1, classes, generator=torch.Generator().manual_seed(0))
    sample, found = torch.zeros(1, 3, 32, 32), []
    for threshold in (float("-inf"), float("inf")):
        rule = Policy((threshold,), policy.score, combine=policy.combine)
        cascade = Cascade([_Given(logits), _Given(logits)], rule).eval()
        with torch.inference_mode():
            seconds = []
            for _ in range(repeats + 100):
                start = time.perf_counter()
                cascade(sample)
                seconds.append(time.perf_counter() - start)
        found.append(median(seconds[100:]))
    return found[0], found[1]
