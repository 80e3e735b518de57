"""Speed of a cascade, on the device and in the precision of a Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from lit_cascade.core import answers_of
from lit_cascade.data import EvaluationData
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.lit.cascade import LitCascade, SplitStream
from lit_cascade.lit.failures import explained
from lit_cascade.lit.reading import call_in_loop, description_of, evaluation_data
from lit_cascade.lit.stages import distinct, inputs_and_rows
from lit_cascade.live import (
    Inputs,
    Latency,
    Speed,
    batch_size,
    index_batch,
    latencies,
    thresholds_at,
    throughput,
    time_policies,
)
from lit_cascade.utilities.tabular import Tabular, described, listed, shortened
from lit_cascade.utilities.units import counted, percent


@dataclass(frozen=True)
class SpeedPlan:
    """Settings of a benchmark.

    Attributes:
        thresholds: of each policy to run.
        rates: share of its samples that each stage defers; used if there are no thresholds.
        samples: number of samples to run on, at most.
        singles: number of them to run one at a time.
        repeats: number of times that everything is timed.
        gather: number of batches whose deferred samples are gathered.
        end_to_end: whether to measure with loading and preprocessing too.

    Raises:
        UsageError: a number below 1, or a rate that is not between 0 and 1.
    """

    thresholds: tuple[tuple[float, ...], ...] = ()
    rates: tuple[float, ...] = ()
    samples: int = 2048
    singles: int = 64
    repeats: int = 5
    gather: int = 8
    end_to_end: bool = True

    def __post_init__(self) -> None:
        """Check every number."""
        for name in ("samples", "singles", "repeats", "gather"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        for rate in self.rates:
            if not 0 < rate < 1:
                raise UsageError(f"deferral_rates: expected shares between 0 and 1, got {rate}.")


@dataclass(frozen=True)
class Benchmark(Tabular):
    """Result of a benchmark.

    Attributes:
        names: of the stages.
        n: number of samples.
        batch_size: number of samples per batch.
        device: its name.
        model_only: throughput on inputs that are loaded already, one per policy.
        end_to_end: throughput with loading and preprocessing, one per policy, or none.
        latency: of each stage alone, one sample at a time.
        cascade_latency: of the cascade, one sample at a time, one per policy.
        data: name, split and source of the data.
    """

    names: tuple[str, ...]
    n: int
    batch_size: int
    device: str
    model_only: tuple[Speed, ...]
    end_to_end: tuple[Speed, ...]
    latency: tuple[Latency, ...]
    cascade_latency: tuple[Latency, ...]
    data: dict[str, Any]

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per stage alone, and one per policy of the cascade.

        `what, deferral_rate, seconds_per_sample, speedup, ideal_speedup` in full batches of inputs
        that are loaded already, medians of the repeats, and `p50` and `p99` of one sample at a time
        in seconds.
        """
        speeds = self.model_only
        alone = [median(seconds) for seconds in speeds[0].stages]
        none = [math.nan] * len(alone)
        latency = (*self.latency, *self.cascade_latency)
        at = ("cascade at " + listed([f"{t:.4g}" for t in speed.thresholds]) for speed in speeds)
        return {
            "what": [*self.names, *at],
            "deferral_rate": none + [speed.deferral_rate for speed in speeds],
            "seconds_per_sample": alone + [median(speed.cascade) for speed in speeds],
            "speedup": [alone[-1] / one for one in alone] + [speed.speedup[0] for speed in speeds],
            "ideal_speedup": none + [speed.ideal_speedup for speed in speeds],
            "p50": [one.p50 for one in latency],
            "p99": [one.p99 for one in latency],
        }

    def __repr__(self) -> str:
        fastest = max(self.model_only, key=lambda speed: speed.speedup[0])
        return described(
            "Benchmark",
            listed(self.names, " → "),
            counted(self.n, "sample"),
            f"batches of {self.batch_size}",
            shortened(self.device),
            f"up to {fastest.speedup[0]:.2f}x as fast as the last stage alone",
            f"with {percent(fastest.deferral_rate)} deferred",
        )


def benchmark(
    trainer: Trainer,
    model: LitCascade,
    datamodule: LightningDataModule,
    split: str,
    plan: SpeedPlan,
    progress: Callable[[int, int], None] | None = None,
) -> Benchmark:
    """Measure how fast a cascade is, compared with its stages alone, on one process.

    Args:
        trainer: for its device and precision.
        model: the cascade; its own thresholds are not used.
        datamodule: the data.
        split: as for `record`.
        plan: what to measure, and at which thresholds.
        progress: called with the number of samples that were run on for the throughput, and of all.

    Raises:
        UsageError: several processes, or the data has no such split.
        CascadeError: an empty split.
    """
    if trainer.world_size > 1:
        raise UsageError(
            "trainer.devices: speed is measured by one process, on one device, "
            f"got {trainer.world_size}."
        )
    first = model.loading(metered=False).first
    data = evaluation_data(trainer, model, datamodule, split, first)
    with explained():
        return call_in_loop(
            trainer, lambda: _Measurement(model, data, plan, progress).run(), data, model
        )


class _Measurement:
    """One benchmark, in a step of the Trainer's loop."""

    def __init__(
        self,
        model: LitCascade,
        data: EvaluationData,
        plan: SpeedPlan,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._model, self._data, self._plan = model, data, plan
        self._progress, self._runs = progress, 0
        self._stream = SplitStream(model, data, metered=False)
        self._preprocessings = [stage.preprocessing for stage in model.networks().values()]
        self._batches: list[list[int]] = []
        for batch in data.batches:
            if sum(map(len, self._batches)) + len(batch) > plan.samples and self._batches:
                break
            self._batches.append(batch)
        self._n = sum(map(len, self._batches))

    def run(self) -> Benchmark:
        cascade, plan, device = self._model.cascade, self._plan, self._model.device
        inputs = self._inputs()
        thresholds = plan.thresholds or tuple(
            thresholds_at(cascade, inputs, rate) for rate in plan.rates
        )
        alone, together = latencies(
            cascade, index_batch(inputs[0], slice(0, plan.singles)), thresholds
        )
        model_only = throughput(cascade, inputs, thresholds, plan.repeats, plan.gather, self._tick)
        del inputs
        return Benchmark(
            names=self._model.names,
            n=self._n,
            batch_size=max(map(len, self._batches)),
            device=torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{device.type}, {counted(torch.get_num_threads(), 'thread')}",
            model_only=tuple(model_only),
            end_to_end=tuple(self._end_to_end(thresholds) if plan.end_to_end else ()),
            latency=tuple(alone),
            cascade_latency=tuple(together),
            data=description_of(self._data),
        )

    def _inputs(self) -> list[Inputs]:
        """Batches with the views of all stages, on the device."""
        loader = self._data.deferred_loader(*distinct(self._preprocessings))
        loaded = loader(self._batches)
        inputs = [inputs_and_rows(self._stream.on_device(batch))[0] for batch in loaded]
        if not inputs or not all(map(batch_size, inputs)):
            raise CascadeError("nothing was measured: there are no samples.")
        return inputs

    def _end_to_end(self, thresholds: Sequence[tuple[float, ...]]) -> list[Speed]:
        cascade, stream = self._model.cascade, self._stream
        loaders = [self._data.deferred_loader(one) for one in self._preprocessings]
        first = self._data.deferred_loader(*self._model.loading(metered=False).first)

        def alone(k: int) -> list[Tensor]:
            batches = map(stream.on_device, loaders[k](self._batches))
            inputs = (inputs_and_rows(batch)[0] for batch in batches)
            return [answers_of(cascade.run_stage(k, one)).cpu() for one in inputs]

        def together() -> Tensor:
            stages = []
            for number, loaded in enumerate(first(self._batches), start=1):
                last = number == len(self._batches)
                rows = stream.step(stream.on_device(loaded), last=last)
                if rows is not None:
                    stages.append(rows["stage"].cpu())
            return torch.cat(stages)

        stages = [partial(alone, k) for k in range(len(loaders))]
        return time_policies(
            cascade, stages, together, thresholds, self._n, self._plan.repeats, self._tick
        )

    def _tick(self) -> None:
        """Report the progress after a run over all samples."""
        self._runs += 1
        if self._progress is not None:
            plan = self._plan
            each = len(self._model.names) + len(plan.thresholds or plan.rates)
            runs = each * (plan.repeats + 1) * (1 + plan.end_to_end)
            self._progress(self._runs * self._n, runs * self._n)
