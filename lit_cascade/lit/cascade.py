"""A cascade as a LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lit_cascade.analysis import policy_of
from lit_cascade.batch import Inputs, forward_logits, split_labels
from lit_cascade.cascade import Cascade, CascadeOutput
from lit_cascade.core.policy import always_defer
from lit_cascade.cost import FlopMeter, count_parameters
from lit_cascade.data.evaluation import EvaluationBatch
from lit_cascade.errors import CascadeError, UsageError, check_file_name
from lit_cascade.lit.metrics import CascadeMetrics
from lit_cascade.models.stage import Stage, describe_network
from lit_cascade.options import PolicyOptions

__all__ = ["LitCascade"]


class LitCascade(LightningModule):
    """Two or more trained classifiers of the same classes, cheapest first, as a cascade.

    In a validation loop every stage sees every sample, so that any threshold can be judged
    afterwards. In a test loop the cascade runs for real: each stage sees only what the earlier
    ones deferred.

    Args:
        stages: the classifiers by name, cheapest first.
        policy: score, temperatures and thresholds. Without thresholds everything is deferred.

    Raises:
        UsageError: fewer than two stages, a missing checkpoint, or a policy that does not fit.
        CascadeError: a checkpoint of another architecture, or stages with different classes.
    """

    def __init__(self, stages: dict[str, Stage], policy: PolicyOptions | None = None) -> None:
        super().__init__()
        if len(stages) < 2:
            raise UsageError(
                "model.stages: a cascade needs at least 2 stages, "
                f"got {', '.join(stages) or 'none'}."
            )
        self.names = tuple(stages)
        for name in self.names:
            check_file_name(name, "model.stages")
        self.options = policy or PolicyOptions()
        # every number is checked before any weights are read
        given = policy_of(self.options, self.names)
        everything = always_defer(
            len(stages),
            score=self.options.score,
            temperatures=self.options.temperatures_of(self.names),
            combine=self.options.combine,
            floors=self.options.floors_of(self.names),
        )
        built = {name: stage.build(name) for name, stage in stages.items()}
        self.class_names = _agreed({name: classes for name, (_, classes) in built.items()})
        networks = {name: network for name, (network, _) in built.items()}
        self.cascade = Cascade(networks, given or everything)
        self.has_thresholds = given is not None
        self._meters = {name: FlopMeter(network) for name, network in networks.items()}

    def forward(self, inputs: Inputs) -> CascadeOutput:
        """Answer a batch, running each stage only where it is needed."""
        output: CascadeOutput = self.cascade(inputs)
        return output

    def set_temperatures(self, temperatures: dict[str, float]) -> None:
        """Set the temperature of stages by name; the others keep theirs.

        Raises:
            UsageError: an unknown stage, or a temperature that is not a positive finite number.
        """
        known = dict(zip(self.names, self.cascade.policy.temperatures, strict=True))
        self.options = replace(self.options, temperatures={**known, **temperatures})
        self.cascade.policy = replace(
            self.cascade.policy, temperatures=self.options.temperatures_of(self.names)
        )

    def stage_info(self) -> list[dict[str, Any]]:
        """Parameters and settings of each stage, in order."""
        return [
            {"parameters": count_parameters(network), "model": describe_network(network)}
            for network in self.cascade.stages
        ]

    def metrics_at(self, thresholds: Sequence[float]) -> CascadeMetrics:
        """Metrics of this cascade at other thresholds."""
        policy = self.cascade.policy
        return CascadeMetrics(
            thresholds, policy.score, policy.temperatures, len(self.names), policy.combine
        )

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Run every stage on the whole batch.

        Args:
            batch: an `EvaluationBatch`, or what a data module gives: (inputs, labels), or a dict
                with an entry `labels`.
            batch_idx: not used.

        Returns:
            `labels`, and `logits.NAME` (N, C) float32 and `flops.NAME` (N,) float64 of each stage.
        """
        del batch_idx
        inputs, rows = _rows(batch)
        for name, network in zip(self.names, self.cascade.stages, strict=True):
            rows[f"logits.{name}"] = forward_logits(network, inputs, name).float()
            rows[f"flops.{name}"] = self._meters[name](inputs)
        widths = {name: rows[f"logits.{name}"].shape[1] for name in self.names}
        if len(set(widths.values())) > 1:
            raise CascadeError(
                "the stages have different numbers of classes: "
                + ", ".join(f"{name} has {width}" for name, width in widths.items())
            )
        return rows

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Run the cascade for real.

        Returns:
            `labels`, `prediction`, `stage`, `score`, and the FLOPs of each stage on each sample:
            `flops.NAME` where it ran, 0 where it did not. `flops_alone` is the last stage's own,
            `classes` their number.
        """
        del batch_idx
        inputs, rows = _rows(batch)
        output = self(inputs)
        if not output.logits.isfinite().all():
            bad = int((~output.logits.isfinite()).any(dim=1).nonzero()[0, 0])
            raise CascadeError(
                f"stage {self.names[int(output.stage[bad])]!r} gave NaN or infinite logits. "
                "A model in half precision may overflow: try --trainer.precision 32."
            )
        rows.update(prediction=output.prediction, stage=output.stage, score=output.score)
        rows["classes"] = torch.full_like(output.stage, output.logits.shape[1])
        stage = output.stage.cpu()
        for k, name in enumerate(self.names):
            rows[f"flops.{name}"] = self._meters[name](inputs) * (stage >= k)
        rows["flops_alone"] = self._meters[self.names[-1]](inputs)
        return rows


def _rows(batch: Any) -> tuple[Inputs, dict[str, Tensor]]:
    inner = batch.batch if isinstance(batch, EvaluationBatch) else batch
    inputs, labels = split_labels(inner)
    rows = {"labels": labels}
    if isinstance(batch, EvaluationBatch):
        rows["positions"] = batch.positions
    return inputs, rows


def _agreed(classes: dict[str, tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """The class names that all stages which know theirs have in common, in the same order."""
    known = {name: names for name, names in classes.items() if names is not None}
    for one, other in zip(known, list(known)[1:], strict=False):
        check_classes(known[one], known[other], f"stage {one!r}", f"stage {other!r}")
    return next(iter(known.values()), None)


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
