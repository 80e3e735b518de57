"""A cascade as a LightningModule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from lit_cascade.core import Policy
from lit_cascade.data import DeferredLoader, EvaluationData, PositionedBatch
from lit_cascade.errors import CascadeError, UsageError, check_file_name
from lit_cascade.lit.metrics import CascadeMetrics
from lit_cascade.lit.stages import FittingParts, StagesModule, describe, distinct, inputs_and_rows
from lit_cascade.live import (
    RAW,
    Answered,
    Cascade,
    CascadeOutput,
    Inputs,
    Preprocessing,
    Stream,
    join,
    view_of,
)
from lit_cascade.models import BuiltStage, Stage
from lit_cascade.options import PolicyOptions

__all__ = ["LitCascade", "Running", "Views", "check_finite", "views_of"]

_SMALLEST_PIECE = 8
"""Samples below which it is not worth dividing a batch among workers."""


class Views(NamedTuple):
    """Which preprocessing is done to every sample, and which only to those that get that far.

    Attributes:
        opening: for every sample.
        fetched: stages for which deferred samples are loaded once more.
    """

    opening: list[Preprocessing | None]
    fetched: list[int]


def views_of(found: list[Preprocessing | None], *, metered: bool = True) -> Views:
    """How the samples of a cascade are to be loaded.

    Samples that a later stage takes as the first one does are kept from its batches. For other
    stages only what was deferred to them is decoded, resized or tokenised. Where samples are padded
    the deferred ones are loaded anew too, since gathered from several batches they would keep the
    padding of each.

    Args:
        found: preprocessing of each stage, None for those that want nothing.
        metered: whether the cost of the last stage alone is to be known for every sample, for which
            the lengths of padded ones must be known.
    """
    keys = [RAW if one is None else one.key for one in found]
    padded = [hasattr(one, "collate") for one in found]
    fetched = [k for k in range(1, len(found)) if keys[k] != keys[0] or padded[k]]
    opening = [found[0]] + ([found[-1]] if metered and padded[-1] else [])
    return Views(distinct(opening), fetched)


class Running:
    """Feeds the batches of a test loop to a cascade and makes rows of its answers.

    Args:
        module: the cascade, on its device.
        data: that the loop reads.
        views: how samples are loaded.
        metered: whether to tell what each sample cost.
    """

    def __init__(
        self, module: LitCascade, data: EvaluationData, views: Views, *, metered: bool = True
    ) -> None:
        self._module, self._data = module, data
        stages = self._stages = list(module.networks().values())
        self._loaders = {k: data.deferred_loader(stages[k].preprocessing) for k in views.fetched}
        self._last = module.names[-1]
        keys = {RAW if one is None else one.key for one in views.opening}
        last = stages[-1].preprocessing
        self._metered = metered
        self._alone: float | None = None
        if metered and (RAW if last is None else last.key) not in keys:
            self._alone = self._cost_of_one(self._loaders[len(stages) - 1])
        self._stream = Stream(
            module.cascade,
            data.window,
            data.batch_size,
            self._fetch,
            views.fetched,
            observe=self._observe if metered else None,
        )

    def step(self, batch: PositionedBatch, *, last: bool) -> dict[str, Tensor] | None:
        """Take a batch, and return the rows of the samples whose answers are complete.

        Args:
            batch: of the loop.
            last: whether it is the last one of this process.

        Raises:
            CascadeError: NaN or infinite logits.
        """
        inputs, rows = inputs_and_rows(batch)
        rows["positions"] = batch.positions
        done = self._stream.push(inputs, batch.positions.cpu(), rows)
        done += self._stream.flush() if last else []
        parts = [self._rows(one) for one in done]
        if not parts:
            return None
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _fetch(self, k: int, batches: list[list[int]]) -> Iterator[Inputs]:
        """The inputs of a stage, batch by batch.

        A worker makes a whole batch, and what is deferred to a stage is often no more than one: it
        is loaded in pieces, so that all workers have a part in it. Padded samples are not, since
        the padding of a piece is its own.
        """
        pieces = [self._pieces(k, batch) for batch in batches]
        loaded = self._loaders[k]([piece for batch in pieces for piece in batch])
        for batch in pieces:
            yield join([self._inputs(next(loaded)) for _ in batch])

    def _pieces(self, k: int, batch: list[int]) -> list[list[int]]:
        padded = hasattr(self._stages[k].preprocessing, "collate")
        count = 1 if padded else max(1, min(self._data.workers, len(batch) // _SMALLEST_PIECE))
        size = -(-len(batch) // count)
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def _inputs(self, loaded: Any) -> Inputs:
        batch = self._module.trainer.precision_plugin.convert_input(loaded)
        batch = self._data.on_device(batch, self._module.device)
        self._module.remarks.extend(batch.remarks)
        return inputs_and_rows(batch)[0]

    def _cost_of_one(self, loader: DeferredLoader) -> float:
        """FLOPs of the last stage on any sample, where all are of the same shape."""
        (loaded,) = loader([self._data.positions[:1]])
        batch = self._module.trainer.precision_plugin.convert_input(loaded)
        inputs, _ = inputs_and_rows(self._data.on_device(batch, self._module.device))
        return float(self._module.flops(self._last, inputs)[0])

    def _observe(self, k: int, inputs: Inputs) -> Tensor:
        """FLOPs of each sample at stage k: its own, with padding, and the last stage's alone."""
        name = self._module.names[k]
        own, padded = self._module.flops(name, inputs), self._module.executed_flops(name, inputs)
        if k > 0:
            alone = torch.zeros_like(own)
        elif self._alone is not None:
            alone = torch.full_like(own, self._alone)
        else:
            alone = self._module.flops(self._last, inputs)
        return torch.stack([own, own if padded is None else padded, alone], dim=1)

    def _rows(self, answered: Answered) -> dict[str, Tensor]:
        rows, output = dict(answered.extra), answered.output
        if not self._metered:
            rows["probability"] = self._module.cascade.probability(output)
        check_finite(output.logits, output.stage, rows["positions"], self._module.names)
        rows.update(prediction=output.prediction, stage=output.stage, score=output.score)
        rows["classes"] = torch.full_like(output.stage, output.logits.shape[1])
        if not self._metered:
            return rows
        n = len(output.stage)
        for name, seen in zip(self._module.names, answered.seen, strict=True):
            spent = torch.zeros(n, 3, dtype=torch.float64) if seen is None else seen
            rows[f"flops.{name}"], rows[f"executed_flops.{name}"] = spent[:, 0], spent[:, 1]
        first = answered.seen[0]
        if first is not None:  # every sample goes through the first stage
            rows["flops_alone"] = first[:, 2]
        return rows


def check_finite(
    logits: Tensor, stage: Tensor, positions: Tensor | None, names: tuple[str, ...]
) -> None:
    """Make sure that answers rest on numbers.

    Raises:
        CascadeError: NaN or infinite logits, other than of samples that are left out.
    """
    broken = ~logits.isfinite().all(dim=1)
    if positions is not None:  # of what is left out a stand-in went through the stages
        broken &= positions.to(broken.device) >= 0
    if broken.any():
        bad = int(broken.nonzero()[0, 0])
        raise CascadeError(
            f"stage {names[int(stage[bad])]!r} gave NaN or infinite logits. "
            "A model in half precision may overflow: try --trainer.precision 32."
        )


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
        policy: score, temperatures and thresholds; running the cascade needs thresholds.
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
        checked = Policy.from_options(self.options, self.names)
        built = {name: stage.build(name) for name, stage in stages.items()}
        self._parts = {name: FittingParts() for name in self.names}
        self.cascade = _FittingCascade(built, checked, self._parts)
        self._agree()
        self._info = {name: describe(stage) for name, stage in built.items()}
        for stage in built.values():
            self.make_ready(stage)
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
