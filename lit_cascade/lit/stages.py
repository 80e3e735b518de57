"""What all modules with stages share: descriptions of them, and validation that runs them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.memory import garbage_collection_cuda
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DistributedSampler

from lit_cascade.data import PositionedBatch
from lit_cascade.errors import CascadeError
from lit_cascade.lit.failures import first_line, is_out_of_memory
from lit_cascade.live import (
    FlopMeter,
    Inputs,
    Preprocessing,
    batch_size,
    count_parameters,
    forward_logits,
    index_batch,
    split_labels,
)
from lit_cascade.models import BuiltStage, describe_network


class AdaptiveForward:
    """Forward pass in parts that fit into memory.

    A batch that does not fit is halved until it does, and later batches start at that size. Each
    process has a size of its own.

    Attributes:
        size: samples per forward pass; None as long as whole batches fit.
    """

    def __init__(self) -> None:
        self.size: int | None = None

    def __call__(self, model: nn.Module, inputs: Inputs, name: str) -> Tensor:
        """Logits (N, C) of a batch.

        Raises:
            CascadeError: not even one sample fits; also as for `forward_logits`.
        """
        n = batch_size(inputs)
        while True:
            size = n if self.size is None else min(self.size, n)
            try:
                if size == n:
                    return forward_logits(model, inputs, name)
                parts = (index_batch(inputs, slice(i, i + size)) for i in range(0, n, size))
                return torch.cat([forward_logits(model, part, name) for part in parts])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise CascadeError(
                        f"{name}: out of memory even for a single sample: {first_line(error)}. "
                        "Try smaller images or shorter texts, half precision "
                        "(--trainer.precision bf16-true), or a device with more memory."
                    ) from error
            self.size = (size + 1) // 2
            garbage_collection_cuda()  # outside of the handler, which holds on to the tensors


def least_by_stage(sizes: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Least samples per forward pass of each stage, over processes or runs."""
    least: dict[str, int] = {}
    for one in sizes:
        for name, size in one.items():
            least[name] = min(size, least.get(name, size))
    return least


class StagesModule(LightningModule):
    """A module whose validation loop runs every stage on every sample.

    Args:
        channels_last: keep weights in the memory layout in which convolutions on GPUs are fastest.
        compiled: run the stages through `torch.compile`.

    Attributes:
        names: of the stages in memory, in order.
        class_names: of the classes that they answer among, in logit order; None if no stage has
            any.
    """

    names: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None

    def __init__(self, *, channels_last: bool = False, compiled: bool = False) -> None:
        super().__init__()
        self.channels_last, self.compiled = channels_last, compiled
        self._info: dict[str, dict[str, Any]] = {}
        self._meters: dict[str, FlopMeter] = {}
        self._forwards: dict[str, AdaptiveForward] = {}

    def networks(self) -> Mapping[str, BuiltStage]:
        """The stages in memory, by name, in order."""
        raise NotImplementedError

    def prepare(self, name: str, stage: BuiltStage) -> None:
        """Describe a stage that was just built, then apply `channels_last` and `compiled`."""
        parameters, model = count_parameters(stage), describe_network(stage)
        self._info[name] = {"parameters": parameters, "model": model}
        self._meters[name], self._forwards[name] = FlopMeter(stage, name), AdaptiveForward()
        if self.channels_last:
            stage.network.to(memory_format=torch.channels_last)
        if self.compiled:
            stage.network.compile()

    def preprocessings(self) -> list[Preprocessing | None]:
        """Distinct preprocessings of the stages; None for stages without."""
        return distinct(stage.preprocessing for stage in self.networks().values())

    def align(self, classes: Sequence[str] | None, *, fewer: bool = False) -> None:
        """Bring the logits of all stages with class names into the order of the data's classes.

        Args:
            classes: names in label order; None if the data do not name them.
            fewer: whether stages that know more classes are to answer among these only.

        Raises:
            CascadeError: classes that cannot be aligned by name.
        """
        if classes is None:
            return
        for stage in self.networks().values():
            stage.answer_among(classes, "the data", fewer=fewer)
        known = [stage.class_names for stage in self.networks().values()]
        self.class_names = next((names for names in known if names is not None), None)

    def flops(self, name: str, inputs: Inputs) -> Tensor:
        """FLOPs of a stage on each sample of a batch, without padding, (N,) float64."""
        return self._meters[name](inputs)

    def executed_flops(self, name: str, inputs: Inputs) -> Tensor | None:
        """FLOPs with the padding of the batch; None for samples that are never padded."""
        return self._meters[name].executed(inputs)

    def stage_info(self) -> list[dict[str, Any]]:
        """Parameters and settings of each stage, in order, before a Trainer changes precision.

        `known_classes` is the number of classes of a stage that answers among others than it knows.
        """
        infos = []
        for name, stage in self.networks().items():
            use = {}
            if stage.columns is not None and stage.known is not None:
                use = {"known_classes": len(stage.known)}
            infos.append({**self._info[name], "model": {**self._info[name]["model"], **use}})
        return infos

    def samples_per_forward(self) -> dict[str, int]:
        """Samples per forward pass of the stages whose whole batches did not fit into memory."""
        sizes = {name: forward.size for name, forward in self._forwards.items()}
        return {name: size for name, size in sizes.items() if size is not None}

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Run every stage on the whole batch.

        Args:
            batch: a `PositionedBatch`, or the batch of a data module: (inputs, labels), or a dict
                with an entry `labels`.
            batch_idx: not used.

        Returns:
            `labels`, and per stage `logits.NAME` (N, C) float32, `flops.NAME` (N,) float64 and, for
            padded batches, `executed_flops.NAME`.

        Raises:
            CascadeError: stages with different numbers of classes.
        """
        del batch_idx
        inputs, rows = inputs_and_rows(batch)
        for name, network in self.networks().items():
            rows[f"logits.{name}"] = self._forwards[name](network, inputs, name).float()
            rows[f"flops.{name}"] = self.flops(name, inputs)
            padded = self.executed_flops(name, inputs)
            if padded is not None:
                rows[f"executed_flops.{name}"] = padded
        widths = {name: rows[f"logits.{name}"].shape[1] for name in self.names}
        if len(set(widths.values())) > 1:
            raise CascadeError(
                "the stages have different numbers of classes: "
                + ", ".join(f"{name} has {width}" for name, width in widths.items())
            )
        return rows


def inputs_and_rows(batch: Any) -> tuple[Inputs, dict[str, Tensor]]:
    """Inputs of the models, and the rows of a step so far: `labels`, and `positions` if known."""
    inner = batch.batch if isinstance(batch, PositionedBatch) else batch
    inputs, labels = split_labels(inner)
    rows = {"labels": labels}
    if isinstance(batch, PositionedBatch):
        rows["positions"] = batch.positions
    return inputs, rows


def distinct(preprocessings: Iterable[Preprocessing | None]) -> list[Preprocessing | None]:
    """Preprocessings without repeats, in order."""
    return list({None if one is None else one.key: one for one in preprocessings}.values())


def loader_of(loaders: Any, dataloader_idx: int) -> Any:
    """One of a Trainer's data loaders, which may come in any form that it takes."""
    return CombinedLoader(loaders).flattened[dataloader_idx]


def unrepeated(
    rows: Mapping[str, Tensor], loaders: Any, batch_idx: int, dataloader_idx: int = 0
) -> dict[str, Tensor]:
    """Rows of a batch without those of samples that a `DistributedSampler` repeats.

    It gives every process as many samples by repeating the first ones at the end: of N samples,
    process r of W reads r, r + W, r + 2 W, ..., and those from N on are repeats. Batches of another
    sampler than torch's own are left as they are: their order is not known.

    Args:
        rows: of one batch, along axis 0.
        loaders: the Trainer's data loaders of this loop, in any form that it takes.
        batch_idx: number of the batch in its loader.
        dataloader_idx: number of its loader.
    """
    batches: Any = getattr(loader_of(loaders, dataloader_idx), "batch_sampler", None)
    sampler: Any = getattr(batches, "sampler", None)
    known = {DistributedSampler.__iter__, DistributedSamplerWrapper.__iter__}
    if type(batches) is not BatchSampler or type(sampler).__iter__ not in known:
        return dict(rows)
    mine = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))
    left = max(0, mine - batch_idx * batches.batch_size)
    return {key: value[:left] for key, value in rows.items()}


def log_by_loader(
    module: LightningModule,
    prefix: str,
    values: Sequence[Mapping[str, Tensor]],
    *,
    prog_bar: bool = False,
) -> None:
    """Log numbers that are the same on every process, for the callbacks of each.

    Args:
        module: logs them.
        prefix: of their names.
        values: of each data loader of the loop; if there are several, names end in its number as
            those that Lightning logs itself.
        prog_bar: whether the progress bar shows them.
    """
    for number, one in enumerate(values):
        suffix = f"/dataloader_idx_{number}" if len(values) > 1 else ""
        for name, value in one.items():
            module.log(
                f"{prefix}_{name}{suffix}",
                value.float(),
                prog_bar=prog_bar,
                sync_dist=True,
                reduce_fx="max",  # an average of equal numbers may round, their maximum does not
                add_dataloader_idx=False,
            )
