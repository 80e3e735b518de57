"""A cascade as a LightningModule, and the streaming of a split through it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from lit_cascade.core import Policy
from lit_cascade.data import EvaluationData, PositionedBatch
from lit_cascade.errors import CascadeError, UsageError, check_file_name
from lit_cascade.lit.metrics import CascadeMetrics
from lit_cascade.lit.stages import (
    AdaptiveForward,
    StagesModule,
    distinct,
    inputs_and_rows,
)
from lit_cascade.live import (
    Cascade,
    CascadeOutput,
    Inputs,
    Preprocessing,
    Stream,
    StreamOutput,
    join_batches,
    view_key,
    view_of,
)
from lit_cascade.models import BuiltStage, Stage
from lit_cascade.options import PolicyOptions

_SMALLEST_PIECE = 8
"""Samples below which a batch is not divided among workers."""


class _AdaptiveCascade(Cascade):
    """Runs batches that do not fit into memory in parts."""

    def __init__(
        self,
        stages: Mapping[str, BuiltStage],
        policy: Policy,
        forwards: Mapping[str, AdaptiveForward],
    ) -> None:
        super().__init__(stages, policy)
        self._forwards = forwards

    def run_stage(self, k: int, inputs: Inputs) -> Tensor:
        name = self.names[k]
        return self._forwards[name](self.stages[k], view_of(self.stages[k], inputs), name)


class LitCascade(StagesModule):
    """Two or more trained classifiers of the same classes, cheapest first, as a cascade.

    In a validation loop every stage runs on every sample, so that any threshold can be evaluated
    afterwards. In a test loop the cascade runs for real: each stage runs only on the samples that
    earlier ones deferred.

    Args:
        stages: the classifiers by name, cheapest first.
        policy: score, temperatures and thresholds; running the cascade needs thresholds.
        channels_last: keep weights in the memory layout in which convolutions on GPUs are fastest.
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
        checked = Policy.from_options(self.options, self.names)
        built = {name: stage.build(name) for name, stage in stages.items()}
        self.cascade = _AdaptiveCascade(built, checked, self._forwards)
        self._agree()
        for name, stage in built.items():
            self.prepare(name, stage)
        self._stream: SplitStream | None = None
        self.metered = True  # whether test loops return the FLOPs of each answer or its probability
        self.top = 1  # number of likeliest classes that they return if not metered
        self.remarks: list[tuple[int, str]] = []

    def networks(self) -> dict[str, BuiltStage]:
        """The stages by name, cheapest first."""
        stages = cast("Iterable[BuiltStage]", self.cascade.stages)
        return dict(zip(self.names, stages, strict=True))

    def _agree(self) -> None:
        """Have all stages with class names answer among those of the one with the fewest.

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

    def set_thresholds(self, thresholds: Sequence[float]) -> None:
        """Set the thresholds of the deferring stages, in stage order.

        Raises:
            UsageError: another number of them, or one that the score cannot reach.
        """
        self.cascade.policy = replace(self.cascade.policy, thresholds=tuple(thresholds))
        self.options = replace(self.options, thresholds=list(thresholds))

    def metrics_at(self, thresholds: Sequence[float], metric: str = "accuracy") -> CascadeMetrics:
        """Metrics of this cascade at other thresholds.

        Args:
            thresholds: on the score.
            metric: a name in `lit_cascade.core.METRICS`.

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
        )

    def loading(self, *, metered: bool) -> StageLoading:
        """Decide how samples are loaded where the cascade runs for real.

        The inputs of a later stage with the preprocessing of the first are kept. For other stages
        only deferred samples are decoded, resized or tokenised. Padded samples are always loaded
        again, as those gathered from several batches would keep the padding of each.

        Args:
            metered: whether the FLOPs of the last stage alone are needed for every sample, and with
                them the lengths of padded samples.
        """
        preprocessings = [stage.preprocessing for stage in self.networks().values()]
        keys = [view_key(one) for one in preprocessings]
        padded = [hasattr(one, "collate") for one in preprocessings]
        first = [preprocessings[0]]
        first += [preprocessings[-1]] if metered and padded[-1] else []
        reloaded = [k for k in range(1, len(keys)) if keys[k] != keys[0] or padded[k]]
        return StageLoading(distinct(first), reloaded)

    def preprocessings_to_run(self) -> list[Preprocessing | None]:
        """Distinct preprocessings of every sample where the cascade runs for real."""
        return self.loading(metered=self.metered).first

    def on_test_start(self) -> None:
        """Prepare to gather deferred samples, if a split is read for evaluation."""
        data = getattr(self.trainer, "datamodule", None)
        self.remarks, self._stream = [], None
        if isinstance(data, EvaluationData):
            self._stream = SplitStream(self, data, metered=self.metered)

    def on_test_end(self) -> None:
        """Release the loaders of deferred samples."""
        self._stream = None

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Run the cascade for real.

        Where a split is read for evaluation, deferred samples are gathered over some batches, and
        the rows of several batches are returned once they are complete.

        Returns:
            `labels`, `prediction`, `stage`, `score`, the number of `classes`, and FLOPs per sample:
            `flops.NAME` of each stage, 0 where it did not run, `executed_flops.NAME` with the
            padding of the batch, and `flops_alone` of the last stage alone.
        """
        if self._stream is not None:
            batches = self.trainer.num_test_batches[0]
            return self._stream.step(batch, last=batch_idx + 1 == batches)
        inputs, rows = inputs_and_rows(batch)
        output = self(inputs)
        rows |= _answer_rows(output, None, self.names)
        stage = output.stage.cpu()
        for k, name in enumerate(self.names):
            own, padded = self.flops(name, inputs), self.executed_flops(name, inputs)
            rows[f"flops.{name}"] = own * (stage >= k)
            rows[f"executed_flops.{name}"] = (own if padded is None else padded) * (stage >= k)
        rows["flops_alone"] = self.flops(self.names[-1], inputs)
        return rows


def _answer_rows(
    output: CascadeOutput, positions: Tensor | None, names: tuple[str, ...]
) -> dict[str, Tensor]:
    """Rows of answers to samples."""
    broken = ~output.logits.isfinite().all(dim=1)
    if positions is not None:  # a placeholder runs in the place of a sample that is left out
        broken &= positions.to(broken.device) >= 0
    if broken.any():
        first = int(broken.nonzero()[0, 0])
        raise CascadeError(
            f"stage {names[int(output.stage[first])]!r} gave NaN or infinite logits. "
            "A model in half precision may overflow: try --trainer.precision 32."
        )
    classes = torch.full_like(output.stage, output.logits.shape[1])
    rows = {"prediction": output.prediction, "stage": output.stage, "score": output.score}
    return rows | {"classes": classes}


class StageLoading(NamedTuple):
    """Preprocessing of every sample, and of the samples that are deferred.

    Attributes:
        first: distinct preprocessings of every sample.
        reloaded: stages for which deferred samples are loaded once more.
    """

    first: list[Preprocessing | None]
    reloaded: list[int]


class SplitStream:
    """Streams the batches of a test loop through a cascade and makes rows of its answers.

    Args:
        module: the cascade, on its device.
        data: read by the loop.
        metered: whether rows hold the FLOPs of each sample, or the probability of each answer.
    """

    def __init__(self, module: LitCascade, data: EvaluationData, *, metered: bool) -> None:
        self._module, self._data, self._metered = module, data, metered
        loading = module.loading(metered=metered)
        self._stages = list(module.networks().values())
        self._loaders = {
            k: data.deferred_loader(self._stages[k].preprocessing) for k in loading.reloaded
        }
        self._last = module.names[-1]
        keys = {view_key(one) for one in loading.first}
        self._flops_alone: float | None = None
        if metered and view_key(self._stages[-1].preprocessing) not in keys:
            # on the first sample: without padding all are of the same shape
            (loaded,) = self._loaders[len(self._stages) - 1]([data.positions[:1]])
            inputs, _ = inputs_and_rows(self.on_device(loaded))
            self._flops_alone = float(module.flops(self._last, inputs)[0])
        self._stream = Stream(
            module.cascade,
            data.window,
            data.batch_size,
            self._fetch,
            loading.reloaded,
            observe=self._observe if metered else None,
        )

    def step(self, batch: PositionedBatch, *, last: bool) -> dict[str, Tensor] | None:
        """Add a batch, and return the rows of the batches whose answers are complete.

        Args:
            batch: of the loop.
            last: whether it is the last one of this process.

        Raises:
            CascadeError: NaN or infinite logits.
        """
        inputs, rows = inputs_and_rows(batch)
        done = self._stream.push(inputs, batch.positions.cpu(), rows)
        done += self._stream.flush() if last else []
        parts = [self._rows(one) for one in done]
        if not parts:
            return None
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _fetch(self, k: int, batches: list[list[int]]) -> Iterator[Inputs]:
        """The inputs of a stage, batch by batch.

        A worker loads a whole batch, and often no more than one is deferred to a stage: it is
        loaded in pieces, so that all workers take part. Padded batches are not, since each piece
        would have its own padding.
        """
        pieces = [self._pieces(k, batch) for batch in batches]
        loaded = self._loaders[k]([piece for batch in pieces for piece in batch])
        for batch in pieces:
            yield join_batches([self._inputs(next(loaded)) for _ in batch])

    def _pieces(self, k: int, batch: list[int]) -> list[list[int]]:
        padded = hasattr(self._stages[k].preprocessing, "collate")
        count = 1 if padded else max(1, min(self._data.workers, len(batch) // _SMALLEST_PIECE))
        size = -(-len(batch) // count)
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def on_device(self, loaded: Any) -> PositionedBatch:
        """Move a loaded batch to the module's device, in the Trainer's precision."""
        batch = self._module.trainer.precision_plugin.convert_input(loaded)
        return self._data.on_device(batch, self._module.device)

    def _inputs(self, loaded: Any) -> Inputs:
        batch = self.on_device(loaded)
        self._module.remarks.extend(batch.remarks)
        return inputs_and_rows(batch)[0]

    def _observe(self, k: int, inputs: Inputs) -> Tensor:
        """FLOPs of each sample at stage k, with padding, and of the last stage alone, (N, 3)."""
        name = self._module.names[k]
        own, padded = self._module.flops(name, inputs), self._module.executed_flops(name, inputs)
        if k > 0:
            alone = torch.zeros_like(own)
        elif self._flops_alone is not None:
            alone = torch.full_like(own, self._flops_alone)
        else:
            alone = self._module.flops(self._last, inputs)
        return torch.stack([own, own if padded is None else padded, alone], dim=1)

    def _rows(self, answered: StreamOutput) -> dict[str, Tensor]:
        rows, output, names = dict(answered.extra), answered.output, self._module.names
        rows |= _answer_rows(output, rows["positions"], names)
        if not self._metered:
            cascade, top = self._module.cascade, self._module.top
            rows |= {"probability": cascade.probability(output)}
            if top > 1:
                rows["likeliest"], rows["probabilities"] = cascade.likeliest(output, top)
            return rows
        for name, seen in zip(names, answered.seen, strict=True):
            spent = torch.zeros(len(output.stage), 3, dtype=torch.float64) if seen is None else seen
            rows[f"flops.{name}"], rows[f"executed_flops.{name}"] = spent[:, 0], spent[:, 1]
        first = answered.seen[0]
        if first is not None:  # the first stage runs on every sample
            rows["flops_alone"] = first[:, 2]
        return rows
