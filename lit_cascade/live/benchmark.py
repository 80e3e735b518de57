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
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_cascade.core import Judgement, answers_here, answers_of
from lit_cascade.errors import CascadeError
from lit_cascade.live.batch import Inputs, batch_size, index_batch
from lit_cascade.live.cascade import Cascade
from lit_cascade.live.stream import Stream


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
        stages: seconds per sample of each stage alone, one number per repeat.
        cascade: seconds per sample of the cascade in the same repeats.
    """

    thresholds: tuple[float, ...]
    reached: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    cascade: tuple[float, ...]

    @property
    def deferral_rate(self) -> float:
        """Share of the samples that the first stage deferred."""
        return self.reached[1]

    @property
    def ideal(self) -> tuple[float, ...]:
        """Seconds per sample of a cascade that spends time in its stages only, by repeat."""
        return tuple(
            sum(share * seconds for share, seconds in zip(self.reached, stages, strict=True))
            for stages in zip(*self.stages, strict=True)
        )

    @property
    def of_ideal(self) -> tuple[float, float, float]:
        """Ideal over measured time: median, minimum and maximum of the repeats; at best 1."""
        return _spread(self.ideal, self.cascade)

    @property
    def speedup(self) -> tuple[float, float, float]:
        """Time of the last stage alone over that of the cascade: median, minimum, maximum."""
        return _spread(self.stages[-1], self.cascade)

    @property
    def ideal_speedup(self) -> float:
        """Time of the last stage alone over that of the ideal: median of the repeats."""
        return _spread(self.stages[-1], self.ideal)[0]


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
def _at(cascade: Cascade, thresholds: tuple[float, ...]) -> Iterator[None]:
    """Set other thresholds inside a `with` block."""
    before = cascade.policy
    cascade.policy = replace(before, thresholds=thresholds)
    try:
        yield
    finally:
        cascade.policy = before


def thresholds_at(cascade: Cascade, batches: Sequence[Inputs], rate: float) -> tuple[float, ...]:
    """Thresholds at which each stage defers a share of the samples that reach it.

    Args:
        cascade: the cascade; its thresholds are not read.
        batches: samples on the device of the cascade.
        rate: share to defer; with ties in the scores less is deferred.

    Raises:
        CascadeError: no sample reaches a stage.

    Examples:
        >>> scores = torch.log(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]]))
        >>> from lit_cascade.core import Policy
        >>> cascade = Cascade([nn.Identity(), nn.Identity()], Policy((0.5,)))
        >>> round(thresholds_at(cascade, [scores], 0.5)[0], 2)
        0.8
    """
    thresholds: list[float] = []
    left = torch.arange(sum(batch_size(batch) for batch in batches))
    judged: list[list[Judgement]] = [[] for _ in batches]
    for k in range(len(cascade.stages) - 1):
        for batch, earlier in zip(batches, judged, strict=True):
            earlier.append(cascade.policy.judge(k, cascade.run_stage(k, batch), earlier))
        scores = torch.cat([some[k].score for some in judged]).cpu()[left]
        if len(scores) == 0:
            raise CascadeError(f"nothing is left for stage {cascade.names[k]!r} to defer.")
        ordered = scores.sort().values
        place = min(round(rate * len(ordered)), len(ordered) - 1)
        threshold = float(ordered[place])
        thresholds.append(threshold)
        left = left[~answers_here(scores, threshold)]
    return tuple(thresholds)


def time_policies(
    cascade: Cascade,
    stages: Sequence[Callable[[], object]],
    run: Callable[[], Tensor],
    thresholds: Sequence[tuple[float, ...]],
    samples: int,
    repeats: int,
    tick: Callable[[], None] = lambda: None,
) -> list[Speed]:
    """Time a cascade and its stages side by side, each once per repeat, after one untimed run.

    Args:
        cascade: its thresholds are set before each run.
        stages: functions that run one stage each on all samples.
        run: runs the cascade on all samples, and returns the last stage (N,) that ran on each.
        thresholds: thresholds of each policy to time.
        samples: number of samples N.
        repeats: number of timed runs of each.
        tick: called after each run.

    Returns:
        One result per policy.
    """
    device = _device(cascade)
    reached: dict[tuple[float, ...], tuple[float, ...]] = {}

    def together(values: tuple[float, ...]) -> None:
        with _at(cascade, values):
            counts = torch.bincount(run().cpu(), minlength=len(stages))
        reached[values] = tuple((counts.flip(0).cumsum(0).flip(0) / counts.sum()).tolist())

    runs = list(stages)
    runs += [partial(together, values) for values in thresholds]
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for kept, one in zip(seconds, runs, strict=True):
            _wait(device)
            start = time.perf_counter()
            one()
            _wait(device)
            if repeat:
                kept.append((time.perf_counter() - start) / samples)
            tick()
    paces = [tuple(kept) for kept in seconds]
    alone = tuple(paces[: len(stages)])
    return [
        Speed(values, reached[values], alone, pace)
        for values, pace in zip(thresholds, paces[len(stages) :], strict=True)
    ]


def throughput(
    cascade: Cascade,
    batches: Sequence[Inputs],
    thresholds: Sequence[tuple[float, ...]],
    repeats: int,
    gather: int,
    tick: Callable[[], None] = lambda: None,
) -> list[Speed]:
    """Pace of a cascade and its stages on batches that are on its device, without loading.

    Args:
        cascade: the cascade, in evaluation mode.
        batches: batches of samples of the same shape.
        thresholds: thresholds of each policy to time.
        repeats: number of timed runs.
        gather: number of batches whose deferred samples are gathered.
        tick: called after each run.

    Returns:
        One result per policy.
    """

    def alone(k: int) -> list[Tensor]:
        return [answers_of(cascade.run_stage(k, batch)) for batch in batches]

    def together() -> Tensor:
        return torch.cat([one.output.stage for one in Stream(cascade, gather).run(batches)])

    stages = [partial(alone, k) for k in range(len(cascade.stages))]
    n = sum(map(batch_size, batches))
    with torch.inference_mode():
        return time_policies(cascade, stages, together, thresholds, n, repeats, tick)


def latencies(
    cascade: Cascade, samples: Inputs, thresholds: Sequence[tuple[float, ...]]
) -> tuple[list[Latency], list[Latency]]:
    """Latency of each stage alone and of the cascade at each policy, one sample at a time.

    The time of a sample is the median of five runs.

    Args:
        cascade: the cascade, in evaluation mode.
        samples: a batch on the device of the cascade.
        thresholds: thresholds of each policy.

    Returns:
        One latency per stage, and one per policy.
    """
    device = _device(cascade)
    ones = [index_batch(samples, slice(i, i + 1)) for i in range(batch_size(samples))]

    def timed(run: Callable[[Inputs], object]) -> Latency:
        seconds = []
        for one in [*ones[:3], *ones]:
            tries = []
            for _ in range(5):
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
            with _at(cascade, values):
                policies.append(timed(cascade))
    return alone, policies
