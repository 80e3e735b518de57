"""A cascade as a LightningModule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from lit_cascade.core import Policy, VectorScaling, policy_of, rule_of
from lit_cascade.data import EvaluationData
from lit_cascade.errors import UsageError, check_file_name, check_name
from lit_cascade.lit.metrics import CascadeMetrics
from lit_cascade.lit.parts import FittingParts
from lit_cascade.lit.running import Running, Views, check_finite, views_of
from lit_cascade.lit.stages import StagesModule, describe, inputs_and_rows
from lit_cascade.live import Cascade, CascadeOutput, Inputs, Preprocessing, view_of
from lit_cascade.models import BuiltStage, Stage
from lit_cascade.options import PolicyOptions

__all__ = ["LitCascade"]


class _FittingCascade(Cascade):
    """Runs batches that do not fit into memory in parts."""

    def __init__(
        self, stages: Mapping[str, BuiltStage], policy: Policy, parts: Mapping[str, FittingParts]
    ) -> None:
        super().__init__(stages, policy)
        self._parts = parts

    def run_stage(self, k: int, inputs: Inputs) -> Tensor:
        name = self.names[k]
        return self._parts[name](self.stages[k], view_of(self.stages[k], inputs), name)


class LitCascade(StagesModule):
    """Two or more trained classifiers of the same classes, cheapest first, as a cascade.

    In a validation loop every stage sees every sample, so that any threshold can be judged
    afterwards. In a test loop the cascade runs for real: each stage sees only what the earlier
    ones deferred.

    Args:
        stages: the classifiers by name, cheapest first.
        policy: score, temperatures and thresholds. Without thresholds everything is deferred.
        channels_last: keep weights in the layout that convolutions on GPUs are fastest in.
        compiled: run the stages through `torch.compile`.

    Raises:
        UsageError: fewer than two stages, a missing checkpoint, or a policy that does not fit.
        CascadeError: a checkpoint of another architecture, or stages with different classes.
    """

    def __init__(
        self,
        stages: dict[str, Stage],
        policy: PolicyOptions | None = None,
        channels_last: bool = False,  # noqa: FBT001, FBT002 - a setting
        compiled: bool = False,  # noqa: FBT001, FBT002 - a setting
    ) -> None:
        super().__init__(channels_last=channels_last, compiled=compiled)
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
        everything = rule_of(self.options, self.names)
        built = {name: stage.build(name) for name, stage in stages.items()}
        self._parts = {name: FittingParts() for name in self.names}
        self.cascade = _FittingCascade(built, given or everything, self._parts)
        self._agree()
        self._info = {name: describe(stage) for name, stage in built.items()}
        for stage in built.values():
            self.make_ready(stage)
        self.has_thresholds = given is not None
        self._running: Running | None = None
        self.metered = True  # whether test loops tell what each sample cost, or how probable it is
        self.remarks: list[tuple[int, str]] = []

    def networks(self) -> dict[str, BuiltStage]:
        """The stages by name, cheapest first."""
        stages = cast("Iterable[BuiltStage]", self.cascade.stages)
        return dict(zip(self.names, stages, strict=True))

    def stage_info(self) -> list[dict[str, Any]]:
        """Parameters and settings of each stage, before a Trainer changes their precision."""
        return [self.with_use(name, info) for name, info in self._info.items()]

    def _agree(self) -> None:
        """Let all stages that know their classes answer among those of the one with the fewest.

        Data that name their classes may change that.
        """
        known = [stage for stage in self.networks().values() if stage.known is not None]
        if not known:
            return
        least = min(known, key=lambda stage: len(stage.known or ()))
        for stage in known:
            stage.answer_among(least.known or (), f"stage {least.name!r}", fewer=True)
        self.class_names = least.known

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

    def set_vectors(self, vectors: Mapping[str, VectorScaling | None]) -> None:
        """Set or take away the vector scaling of stages by name; the others keep theirs.

        Raises:
            UsageError: an unknown stage.
            CascadeError: a vector scaling for other classes than the stages answer among.
        """
        for name in vectors:
            check_name(name, self.names, "vectors")
        known = dict(zip(self.names, self.cascade.policy.vectors, strict=True)) | dict(vectors)
        self.cascade.policy = replace(self.cascade.policy, vectors=tuple(known.values()))
        plain = {name: vector.as_options() for name, vector in known.items() if vector is not None}
        self.options = replace(self.options, vectors=plain or None)
        self._check_vectors()

    def align(self, classes: Sequence[str] | None, *, fewer: bool = False) -> None:
        """As for any stages; and vector scalings must be for the classes that this leaves."""
        super().align(classes, fewer=fewer)
        self._check_vectors()

    def _check_vectors(self) -> None:
        for name, vector in zip(self.names, self.cascade.policy.vectors, strict=True):
            if vector is not None:
                vector.check_classes(self.class_names, f"stage {name!r}")

    def set_thresholds(self, thresholds: Sequence[float]) -> None:
        """Set the thresholds of the deferring stages, in stage order.

        Raises:
            UsageError: another number of them, or one that the score cannot reach.
        """
        self.cascade.policy = replace(self.cascade.policy, thresholds=tuple(thresholds))
        self.options = replace(self.options, thresholds=list(thresholds))
        self.has_thresholds = True

    def check_thresholds(self) -> None:
        """Check that the cascade can run.

        Raises:
            UsageError: it has no thresholds.
        """
        if not self.has_thresholds:
            raise UsageError(
                "policy.thresholds: running a cascade needs a threshold for "
                f"{', '.join(self.names[:-1])}; `lit-cascade validate` lists some."
            )

    def metrics_at(self, thresholds: Sequence[float], metric: str = "accuracy") -> CascadeMetrics:
        """Metrics of this cascade at other thresholds.

        Args:
            thresholds: on the score.
            metric: a name in `lit_cascade.core.metrics.METRICS`.

        Raises:
            UsageError: an unknown metric, or one that is not defined for so many classes.
        """
        policy = self.cascade.policy
        return CascadeMetrics(
            thresholds,
            policy.score,
            policy.temperatures,
            len(self.names),
            policy.combine,
            metric,
            None if self.class_names is None else len(self.class_names),
            policy.heads,
            policy.vectors,
        )

    def preprocessings_to_run(self) -> list[Preprocessing | None]:
        """What every sample goes through where the cascade runs for real, each once."""
        return self._views().opening

    def _views(self) -> Views:
        found = [stage.preprocessing for stage in self.networks().values()]
        return views_of(found, metered=self.metered)

    def on_test_start(self) -> None:
        """Get ready to gather deferred samples, where a split is read for evaluation."""
        data = getattr(self.trainer, "datamodule", None)
        self.remarks, self._running = [], None
        if isinstance(data, EvaluationData):
            self._running = Running(self, data, self._views(), metered=self.metered)

    def on_test_end(self) -> None:
        """Let the loaders of deferred samples go."""
        self._running = None

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Run the cascade for real.

        Where a split is read for evaluation, deferred samples are gathered over some batches, and
        rows of the samples of several batches are returned once they are complete.

        Returns:
            `labels`, `prediction`, `stage`, `score`, and the FLOPs of each stage on each sample:
            `flops.NAME` where it ran, 0 where it did not, and `executed_flops.NAME` the same with
            the padding of the batch. `flops_alone` is the last stage's own, `classes` their number.
        """
        if self._running is not None:
            batches = self.trainer.num_test_batches[0]
            return self._running.step(batch, last=batch_idx + 1 == batches)
        inputs, rows = inputs_and_rows(batch)
        output = self(inputs)
        check_finite(output.logits, output.stage, None, self.names)
        rows.update(prediction=output.prediction, stage=output.stage, score=output.score)
        rows["classes"] = torch.full_like(output.stage, output.logits.shape[1])
        stage = output.stage.cpu()
        for k, name in enumerate(self.names):
            own, padded = self.flops(name, inputs), self.executed_flops(name, inputs)
            rows[f"flops.{name}"] = own * (stage >= k)
            rows[f"executed_flops.{name}"] = (own if padded is None else padded) * (stage >= k)
        rows["flops_alone"] = self.flops(self.names[-1], inputs)
        return rows
