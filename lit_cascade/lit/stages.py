"""What every module that holds stages shares: running them on whole batches, describing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lit_cascade.batch import Inputs, forward_logits, split_labels
from lit_cascade.cost import FlopMeter, count_parameters
from lit_cascade.data.evaluation import EvaluationBatch
from lit_cascade.errors import CascadeError
from lit_cascade.models.stage import describe_network

__all__ = ["StagesModule", "check_classes", "inputs_and_rows"]


class StagesModule(LightningModule):
    """A module whose validation loop runs every stage that it holds on every sample.

    Attributes:
        names: of the stages that are in memory, in order.
        class_names: names of the classes in logit order; None if no stage knows.
    """

    names: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._meters: dict[str, FlopMeter] = {}

    def networks(self) -> Mapping[str, nn.Module]:
        """The stages that are in memory, by name, in order."""
        raise NotImplementedError

    def flops(self, name: str, inputs: Inputs) -> Tensor:
        """FLOPs of a stage on each sample of a batch, (N,) float64."""
        if name not in self._meters:
            self._meters[name] = FlopMeter(self.networks()[name])
        return self._meters[name](inputs)

    def stage_info(self) -> list[dict[str, Any]]:
        """Parameters and settings of each stage, in order."""
        return [
            {"parameters": count_parameters(network), "model": describe_network(network)}
            for network in self.networks().values()
        ]

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Run every stage on the whole batch.

        Args:
            batch: an `EvaluationBatch`, or what a data module gives: (inputs, labels), or a dict
                with an entry `labels`.
            batch_idx: not used.

        Returns:
            `labels`, and `logits.NAME` (N, C) float32 and `flops.NAME` (N,) float64 of each stage.

        Raises:
            CascadeError: stages with different numbers of classes.
        """
        del batch_idx
        inputs, rows = inputs_and_rows(batch)
        for name, network in self.networks().items():
            rows[f"logits.{name}"] = forward_logits(network, inputs, name).float()
            rows[f"flops.{name}"] = self.flops(name, inputs)
        widths = {name: rows[f"logits.{name}"].shape[1] for name in self.names}
        if len(set(widths.values())) > 1:
            raise CascadeError(
                "the stages have different numbers of classes: "
                + ", ".join(f"{name} has {width}" for name, width in widths.items())
            )
        return rows


def inputs_and_rows(batch: Any) -> tuple[Inputs, dict[str, Tensor]]:
    """What the models take from a batch, and the first of the rows that a step returns."""
    inner = batch.batch if isinstance(batch, EvaluationBatch) else batch
    inputs, labels = split_labels(inner)
    rows = {"labels": labels}
    if isinstance(batch, EvaluationBatch):
        rows["positions"] = batch.positions
    return inputs, rows


def check_classes(one: Sequence[str], other: Sequence[str], first: str, second: str) -> None:
    """Check that two lists of class names are the same, in the same order.

    Raises:
        CascadeError: showing where they first differ.
    """
    if len(one) != len(other):
        raise CascadeError(f"{first} has {len(one)} classes and {second} has {len(other)}.")
    for position, (a, b) in enumerate(zip(one, other, strict=True)):
        if a != b:
            order = " in another order" if set(one) == set(other) else ""
            raise CascadeError(
                f"{first} and {second} have different classes{order}: "
                f"class {position} is {a!r} in one and {b!r} in the other."
            )
