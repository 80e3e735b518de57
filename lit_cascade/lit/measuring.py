"""Measures a cascade's speed on the device and in the precision of a Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor

from lit_cascade.core import answers_of
from lit_cascade.data import EvaluationData
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.lit.cascade import Running, views_of
from lit_cascade.lit.stages import distinct, inputs_and_rows
from lit_cascade.live import (
    Inputs,
    Latency,
    Speed,
    at_policy,
    batch_size,
    latencies,
    map_tensors,
    pace,
    shares,
    thresholds_at,
    throughput,
)

if TYPE_CHECKING:
    from lit_cascade.lit.cascade import LitCascade
    from lit_cascade.lit.reading import ReadingTrainer

__all__ = ["Benchmark", "SpeedPlan", "measure_speed"]


@dataclass(frozen=True)
class SpeedPlan:
    """What to measure.

    Attributes:
        thresholds: of each policy to run.
        rates: shares that each stage is to defer of what it is given; used without thresholds.
        samples: how many of the split to run on, at most.
        singles: how many of them one at a time.
        repeats: how often everything is timed.
        gather: batches whose deferred samples are gathered.
        end_to_end: whether to measure with loading and preprocessing too.

    Raises:
        UsageError: a number below 1, or a rate that is no share.
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
class Benchmark:
    """What was measured.

    Attributes:
        names: of the stages.
        n: number of samples, and `batch_size` of them per batch.
        device: where the stages ran.
        model_only: the stages alone, their inputs being there; one per policy.
        end_to_end: with loading and preprocessing, per policy; empty if that was not asked for.
        latency: of each stage alone, one sample at a time, and `cascade_latency` at each policy.
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


class _Workbench(LightningModule):
    """Does some work once where a Trainer would run a validation step."""

    def __init__(self, inner: LitCascade, work: Callable[[], Benchmark]) -> None:
        super().__init__()
        self.inner = inner
        self._work = work
        self.found: Benchmark | None = None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        del batch, batch_idx
        if self.found is None:
            self.found = self._work()


def measure_speed(
    trainer: ReadingTrainer,
    model: LitCascade,
    datamodule: LightningDataModule,
    split: str,
    plan: SpeedPlan,
) -> Benchmark:
    """Measure a cascade; see `CascadeTrainer.benchmark`."""
    if trainer.world_size > 1:
        raise UsageError(
            "trainer.devices: speed is measured by one process, on one device, "
            f"got {trainer.world_size}."
        )
    views = views_of([stage.preprocessing for stage in model.networks().values()], metered=False)
    data = trainer.data_for(model, datamodule, split, views.opening)

    def work() -> Benchmark:
        return _Measurement(trainer, model, data, plan).run()

    bench = _Workbench(model, work)
    limit, trainer.limit_val_batches = trainer.limit_val_batches, 1
    try:
        trainer.validate(bench, datamodule=data, verbose=False)
    finally:
        trainer.limit_val_batches = limit
    if bench.found is None:
        raise CascadeError("nothing was measured: the split has no batch.")
    return bench.found


class _Measurement:
    """One benchmark, inside a Trainer's step."""

    def __init__(
        self, trainer: ReadingTrainer, model: LitCascade, data: EvaluationData, plan: SpeedPlan
    ) -> None:
        self._trainer, self._model, self._data, self._plan = trainer, model, data, plan
        self._stages = list(model.networks().values())
        self._batches: list[list[int]] = []
        for batch in data.batches:
            if sum(map(len, self._batches)) + len(batch) > plan.samples and self._batches:
                break
            self._batches.append(batch)
        self._n = sum(map(len, self._batches))

    def run(self) -> Benchmark:
        cascade, plan = self._model.cascade, self._plan
        inputs = self._inputs()
        thresholds = plan.thresholds or tuple(
            thresholds_at(cascade, inputs, rate) for rate in plan.rates
        )
        alone, together = latencies(
            cascade, map_tensors(inputs[0], slice(0, plan.singles)), thresholds
        )
        model_only = throughput(cascade, inputs, thresholds, plan.repeats, plan.gather)
        del inputs
        return Benchmark(
            names=self._model.names,
            n=self._n,
            batch_size=max(map(len, self._batches)),
            device=_device_name(self._model.device),
            model_only=tuple(model_only),
            end_to_end=tuple(self._end_to_end(thresholds) if plan.end_to_end else ()),
            latency=tuple(alone),
            cascade_latency=tuple(together),
            data=self._trainer.description(self._data),
        )

    def _on_device(self, loaded: Any) -> Any:
        batch = self._trainer.precision_plugin.convert_input(loaded)
        return self._data.on_device(batch, self._model.device)

    def _inputs(self) -> list[Inputs]:
        """Batches as all stages take them, on the device."""
        loader = self._data.deferred_loader(*distinct(one.preprocessing for one in self._stages))
        found = [inputs_and_rows(self._on_device(one))[0] for one in loader(self._batches)]
        if not found or not all(map(batch_size, found)):
            raise CascadeError("nothing was measured: there are no samples.")
        return found

    def _end_to_end(self, thresholds: Sequence[tuple[float, ...]]) -> list[Speed]:
        model, cascade = self._model, self._model.cascade
        loaders = [self._data.deferred_loader(one.preprocessing) for one in self._stages]
        views = views_of([one.preprocessing for one in self._stages], metered=False)
        opening = self._data.deferred_loader(*views.opening)
        running = Running(model, self._data, views, metered=False)
        reached: dict[int, tuple[float, ...]] = {}

        def alone(k: int) -> Callable[[], object]:
            def run() -> list[Tensor]:
                batches = (
                    inputs_and_rows(self._on_device(one)) for one in loaders[k](self._batches)
                )
                return [answers_of(cascade.run_stage(k, inputs)).cpu() for inputs, _ in batches]

            return run

        def together(i: int, values: tuple[float, ...]) -> Callable[[], object]:
            def run() -> None:
                stages = []
                with at_policy(cascade, replace(cascade.policy, thresholds=values)):
                    for number, one in enumerate(opening(self._batches), start=1):
                        last = number == len(self._batches)
                        rows = running.step(self._on_device(one), last=last)
                        if rows is not None:
                            stages.append(rows["stage"].cpu())
                reached[i] = shares(torch.cat(stages), len(self._stages))

            return run

        runs = [alone(k) for k in range(len(self._stages))]
        runs += [together(i, values) for i, values in enumerate(thresholds)]
        paces = pace(runs, self._n, self._plan.repeats, model.device)
        stages, rest = tuple(paces[: len(self._stages)]), paces[len(self._stages) :]
        return [Speed(values, reached[i], stages, rest[i]) for i, values in enumerate(thresholds)]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
