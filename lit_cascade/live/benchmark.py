"""Speed of a cascade, beside the ideal that the speed of its stages allows.

If a share p_k of the samples reaches stage k, which alone takes t_k per sample, the cascade takes
at least the sum of p_k t_k per sample. In each repeat every stage alone and the cascade at every
policy run over the same batches, and ratios are taken within a repeat, so that a machine that is
slow for a while slows both sides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_cascade.core import Policy, answers_here, answers_of
from lit_cascade.errors import CascadeError
from lit_cascade.live.batch import Inputs, batch_size, index_batch
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
    "reach_rates",
    "thresholds_at",
    "throughput",
]


class Pace(NamedTuple):
    """Time per sample of repeated runs.

    Attributes:
        seconds: seconds per sample of each repeat.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the repeats."""
        return median(self.seconds)


class Latency(NamedTuple):
    """Time of single samples, in seconds.

    Attributes:
        p50: median over the samples.
        p99: 99th percentile over the samples.
    """

    p50: float
    p99: float


@dataclass(frozen=True)
class Speed:
    """Speed of a cascade at one policy, and of its stages alone.

    Attributes:
        thresholds: thresholds of the policy.
        reached: share of the samples that each stage ran on.
        stages: pace of each stage alone, timed in the same repeats.
        cascade: pace of the cascade.
        latency: latency of single samples, if it was measured.
    """

    thresholds: tuple[float, ...]
    reached: tuple[float, ...]
    stages: tuple[Pace, ...]
    cascade: Pace
    latency: Latency | None = None

    @property
    def deferral_rate(self) -> float:
        """Share of the samples that the first stage deferred."""
        return self.reached[1]

    @property
    def ideal(self) -> Pace:
        """Pace of a cascade that spends time in its stages only."""
        return Pace(
            tuple(
                sum(share * seconds for share, seconds in zip(self.reached, stages, strict=True))
                for stages in zip(*(stage.seconds for stage in self.stages), strict=True)
            )
        )

    @property
    def of_ideal(self) -> tuple[float, float, float]:
        """Ideal over measured time: median, minimum and maximum of the repeats; at best 1."""
        return _spread(self.ideal.seconds, self.cascade.seconds)

    @property
    def speedup(self) -> tuple[float, float, float]:
        """Time of the last stage alone over that of the cascade: median, minimum, maximum."""
        return _spread(self.stages[-1].seconds, self.cascade.seconds)

    @property
    def ideal_speedup(self) -> float:
        """Time of the last stage alone over that of the ideal: median of the repeats."""
        return _spread(self.stages[-1].seconds, self.ideal.seconds)[0]


def _spread(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """Median, minimum and maximum of the ratios."""
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    return median(ratios), ratios[0], ratios[-1]


def _wait(device: torch.device) -> None:
    """Wait until a device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _device(cascade: nn.Module) -> torch.device:
    return next((one.device for one in cascade.parameters()), torch.device("cpu"))


@contextmanager
def at_policy(cascade: Cascade, policy: Policy) -> Iterator[None]:
    """Set another policy inside a `with` block."""
    before, cascade.policy = cascade.policy, policy
    try:
        yield
    finally:
        cascade.policy = before


def pace(
    runs: Sequence[Callable[[], object]], samples: int, repeats: int, device: torch.device
) -> list[Pace]:
    """Time functions side by side, each once per repeat, after one untimed run of each.

    Args:
        runs: functions to time.
        samples: number of samples that each run processes.
        repeats: number of timed runs of each.
        device: device that they run on.

    Returns:
        The pace of each.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for kept, run in zip(seconds, runs, strict=True):
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            if repeat:
                kept.append((time.perf_counter() - start) / samples)
    return [Pace(tuple(kept)) for kept in seconds]


def thresholds_at(cascade: Cascade, batches: Sequence[Inputs], rate: float) -> tuple[float, ...]:
    """Thresholds at which each stage defers a share of the samples that reach it.

    Args:
        cascade: the cascade; its thresholds are not read.
        batches: samples on the device of the cascade.
        rate: share to defer; with ties in the scores less is deferred.

    Raises:
        CascadeError: no sample reaches a stage.

    Example:
        >>> scores = torch.log(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]]))
        >>> cascade = Cascade([nn.Identity(), nn.Identity()], Policy((0.5,)))
        >>> round(thresholds_at(cascade, [scores], 0.5)[0], 2)
        0.8
    """
    thresholds: list[float] = []
    left = torch.arange(sum(batch_size(batch) for batch in batches))
    for k in range(len(cascade.stages) - 1):
        logits = (cascade.run_stage(k, batch) for batch in batches)
        columns = [cascade.policy.score_and_answer(k, one)[0] for one in logits]
        scores = torch.cat(columns).cpu()[left]
        if len(scores) == 0:
            raise CascadeError(f"nothing is left for stage {cascade.names[k]!r} to defer.")
        ordered = scores.sort().values
        place = min(round(rate * len(ordered)), len(ordered) - 1)
        threshold = float(ordered[place])
        thresholds.append(threshold)
        left = left[~answers_here(scores, threshold)]
    return tuple(thresholds)


def throughput(
    cascade: Cascade,
    batches: Sequence[Inputs],
    thresholds: Sequence[tuple[float, ...]],
    repeats: int = 5,
    gather: int = GATHER,
) -> list[Speed]:
    """Pace of a cascade and its stages on batches that are on its device, without loading.

    Args:
        cascade: the cascade, in evaluation mode.
        batches: batches of samples of the same shape.
        thresholds: thresholds of each policy to time.
        repeats: number of timed runs.
        gather: number of batches whose deferred samples are gathered.

    Returns:
        One result per policy.
    """
    n, device = sum(batch_size(batch) for batch in batches), _device(cascade)
    reached: dict[int, tuple[float, ...]] = {}

    def alone(k: int) -> Callable[[], object]:
        return lambda: [answers_of(cascade.run_stage(k, batch)) for batch in batches]

    def together(i: int, values: tuple[float, ...]) -> Callable[[], object]:
        def run() -> None:
            with at_policy(cascade, replace(cascade.policy, thresholds=values)):
                outputs = list(Stream(cascade, gather).run(batches))
            stage = torch.cat([one.output.stage for one in outputs])
            reached[i] = reach_rates(stage, len(cascade.stages))

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


def reach_rates(stage: Tensor, stages: int) -> tuple[float, ...]:
    """Share of the samples that each stage ran on, given the last stage (N,) that ran on each."""
    counts = torch.bincount(stage.cpu(), minlength=stages)
    return tuple((counts.flip(0).cumsum(0).flip(0) / len(stage)).tolist())


def latencies(
    cascade: Cascade, samples: Inputs, thresholds: Sequence[tuple[float, ...]], repeats: int = 5
) -> tuple[list[Latency], list[Latency]]:
    """Latency of each stage alone and of the cascade at each policy, one sample at a time.

    Args:
        cascade: the cascade, in evaluation mode.
        samples: a batch on the device of the cascade.
        thresholds: thresholds of each policy.
        repeats: number of runs per sample, of which the median is taken.

    Returns:
        One latency per stage, and one per policy.
    """
    device = _device(cascade)
    ones = [index_batch(samples, slice(i, i + 1)) for i in range(batch_size(samples))]

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
        policies = []
        for values in thresholds:
            with at_policy(cascade, replace(cascade.policy, thresholds=values)):
                policies.append(timed(cascade))
    return alone, policies


class _Constant(nn.Module):
    """A stage that takes no time: it returns the same logits for any inputs."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs: Tensor) -> Tensor:
        del inputs
        return self.logits


def own_overhead(policy: Policy, classes: int, repeats: int = 2000) -> tuple[float, float]:
    """Overhead of a cascade of two stages on one sample on the CPU, in seconds.

    The stages return constants, so that only the cascade itself is timed.

    Args:
        policy: its score and combination are used.
        classes: number of logits.
        repeats: number of timed calls, of which the median is taken.

    Returns:
        Overhead where the first stage answers, and where it defers.
    """
    logits = torch.randn(1, classes, generator=torch.Generator().manual_seed(0))
    sample, overheads = torch.zeros(1, 3, 32, 32), []
    for threshold in (float("-inf"), float("inf")):
        two = Policy((threshold,), policy.score, combine=policy.combine)
        cascade = Cascade([_Constant(logits), _Constant(logits)], two).eval()
        with torch.inference_mode():
            seconds = []
            for _ in range(repeats + 100):
                start = time.perf_counter()
                cascade(sample)
                seconds.append(time.perf_counter() - start)
        overheads.append(median(seconds[100:]))
    return overheads[0], overheads[1]
