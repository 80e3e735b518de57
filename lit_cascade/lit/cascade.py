"""A cascade as a LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_cascade.analysis import policy_of
from lit_cascade.batch import Inputs
from lit_cascade.cascade import Cascade, CascadeOutput
from lit_cascade.core.policy import always_defer
from lit_cascade.errors import CascadeError, UsageError, check_file_name
from lit_cascade.lit.metrics import CascadeMetrics
from lit_cascade.lit.stages import StagesModule, check_classes, inputs_and_rows
from lit_cascade.models.stage import Stage
from lit_cascade.options import PolicyOptions

__all__ = ["LitCascade"]


class LitCascade(StagesModule):
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

    def networks(self) -> dict[str, nn.Module]:
        """The stages by name, cheapest first."""
        return dict(zip(self.names, self.cascade.stages, strict=True))

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

    def metrics_at(self, thresholds: Sequence[float]) -> CascadeMetrics:
        """Metrics of this cascade at other thresholds."""
        policy = self.cascade.policy
        return CascadeMetrics(
            thresholds, policy.score, policy.temperatures, len(self.names), policy.combine
        )

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Run the cascade for real.

        Returns:
            `labels`, `prediction`, `stage`, `score`, and the FLOPs of each stage on each sample:
            `flops.NAME` where it ran, 0 where it did not. `flops_alone` is the last stage's own,
            `classes` their number.
        """
        del batch_idx
        inputs, rows = inputs_and_rows(batch)
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
            rows[f"flops.{name}"] = self.flops(name, inputs) * (stage >= k)
        rows["flops_alone"] = self.flops(self.names[-1], inputs)
        return rows


def _agreed(classes: dict[str, tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """The class names that all stages which know theirs have in common, in the same order."""
    known = {name: names for name, names in classes.items() if names is not None}
    for one, other in zip(known, list(known)[1:], strict=False):
        check_classes(known[one], known[other], f"stage {one!r}", f"stage {other!r}")
    return next(iter(known.values()), None)
