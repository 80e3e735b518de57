"""A cascade as a LightningModule, and the streaming of a split through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lit_cascade.core import Policy, PolicyLike, answers_of, check_logits, is_right, replay
from lit_cascade.data import Collate, EvaluationData, PositionedBatch, class_names_of
from lit_cascade.errors import (
    CascadeError,
    UsageError,
    check_file_name,
    check_labels,
)
from lit_cascade.lit.metrics import CascadeMetrics, SampleMeans
from lit_cascade.lit.stages import (
    AdaptiveForward,
    StagesModule,
    distinct,
    inputs_and_rows,
    loader_of,
    log_by_loader,
    unrepeated,
)
from lit_cascade.live import (
    Cascade,
    CascadeOutput,
    Inputs,
    Preprocessing,
    Stream,
    StreamOutput,
    inputs_of,
    join_batches,
    named_stages,
    view_key,
    view_of,
)
from lit_cascade.models import BuiltStage, Stage
from lit_cascade.options import PolicyOptions

_SMALLEST_PIECE = 8
"""Samples below which a batch is not divided among workers."""


class AdaptiveCascade(Cascade):
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
        """Logits (N, C) of one stage, on its view of the batch."""
        name = self.names[k]
        return self._forwards[name](self.stages[k], view_of(self.stages[k], inputs), name)


class LitCascade(StagesModule):
    """Two or more trained classifiers of the same classes, cheapest first, as a cascade.

    Any Lightning Trainer runs it over any data loader whose batches the stages take, a batch being
    `(inputs, labels)` or a dict with an entry `labels`. For stages with preprocessing of their own
    (timm, transformers) give the loader of images or texts `collate_fn=model.collate`.

    - `validate` runs every stage on every sample. It logs `val_accuracy/NAME` of each stage alone
      and, if the policy has thresholds, what the cascade would reach at them: `val_accuracy`,
      `val_deferral_rate`, mean `val_flops` per sample, and `val_flops_ratio`, relative to the last
      stage alone. `ThresholdMetrics` logs the same at other thresholds.
    - `test` runs each stage only on the samples that earlier ones deferred, and logs
      `test_accuracy`, `test_deferral_rate`, `test_flops` executed (padding of the batch included)
      and `test_flops_ratio`.
    - `predict` returns a dict per batch; see `predict_step`.

    Where the data and a stage name their classes, its logits are put into the data's order.
    With several loaders a name ends in `/dataloader_idx_0` and so on, as always in Lightning. On
    several processes the samples that a `DistributedSampler` repeats are left out, so that the
    figures are those of one process. `state_dict` holds the policy beside the weights.

    Args:
        stages: the classifiers as a list, cheapest first, or as a dict by name: modules that return
            logits, or `Stage`s. They are put into evaluation mode. In a list they are called
            `stage0`, `stage1`, ..., unless the policy names them.
        policy: score, temperatures and thresholds, or the thresholds alone, one number if there are
            two stages. Running the cascade needs thresholds.
        channels_last: keep weights in the memory layout in which convolutions on GPUs are fastest.
        compiled: run the stages through `torch.compile`.

    Raises:
        UsageError: fewer than two stages, stages that are neither modules nor `Stage`s, a missing
            checkpoint, or a policy that does not fit.
        CascadeError: a checkpoint of another architecture, or stages with different classes.

    Examples:
        >>> small, large = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        >>> model = LitCascade({"small": small, "large": large}, 0.9)
        >>> model.hparams["policy"]["thresholds"]
        {'small': 0.9}
    """

    def __init__(
        self,
        stages: Mapping[str, Stage | nn.Module] | Sequence[Stage | nn.Module],
        policy: PolicyLike = None,
        channels_last: bool = False,  # noqa: FBT001, FBT002 - a setting
        compiled: bool = False,  # noqa: FBT001, FBT002 - a setting
    ) -> None:
        super().__init__(channels_last=channels_last, compiled=compiled)
        if isinstance(policy, Mapping):
            policy = PolicyOptions.from_mapping(policy, "policy")
        kinds, expected = (nn.Module, Stage), "an nn.Module or a Stage"
        stages = named_stages(stages, policy, kinds, expected)
        self.names = tuple(stages)
        for name in self.names:
            check_file_name(name, "stages")
        # every number is checked before any weights are read
        policy = Policy.of(policy, self.names)
        built = {
            name: (stage if isinstance(stage, Stage) else _stage_of(stage)).build(name)
            for name, stage in stages.items()
        }
        self.cascade = AdaptiveCascade(built, policy, self._forwards)
        self._agree()
        for name, stage in built.items():
            self.prepare(name, stage)
        self._stream: SplitStream | None = None
        self._means: list[SampleMeans] = []  # of each data loader of the loop
        self.metered = True  # whether test loops return the FLOPs of each answer or its probability
        self.top = 1  # number of likeliest classes that they return if not metered
        self.remarks: list[tuple[int, str]] = []
        plain = {key: value for key, value in policy.to_dict().items() if key != "evidence"}
        self.save_hyperparameters(
            {"policy": plain, "channels_last": channels_last, "compiled": compiled}
        )

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> LitCascade:
        """Load what `Trainer.save_checkpoint` wrote: weights, policy and settings.

        Args:
            checkpoint_path: a path, a URL, or an open file.
            args: as in `LightningModule.load_from_checkpoint`.
            kwargs: the same, and `stages`: networks of the same architectures, in the same order.
                Stages in a list get the names in the checkpoint; a `policy` replaces its own.

        Raises:
            UsageError: no stages.
        """
        if "stages" not in kwargs:
            raise UsageError(
                "stages: a checkpoint holds the weights of the stages and not their architectures; "
                "use LitCascade.load_from_checkpoint(path, stages=[small, large])."
            )
        by_name = {"policy": None} if isinstance(kwargs["stages"], Mapping) else {}
        loaded: LitCascade
        loaded = super().load_from_checkpoint(checkpoint_path, *args, **(by_name | kwargs))
        if "policy" in kwargs:
            loaded.policy = kwargs["policy"]
        return loaded

    @property
    def collate(self) -> Collate | None:
        """Collate function for a `DataLoader` of raw samples, such as images or texts.

        It applies the preprocessing of each stage where the data are loaded. None if no stage has
        any. The data modules of this package find it themselves.
        """
        preprocessings = self.preprocessings()
        return None if preprocessings == [None] else Collate(preprocessings)

    @property
    def policy(self) -> Policy:
        """Score, thresholds and temperatures; any form that `LitCascade` takes may be assigned."""
        return self.cascade.policy

    @policy.setter
    def policy(self, policy: PolicyLike) -> None:
        self.cascade.policy = policy

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

    def metrics_at(self, thresholds: Sequence[float], metric: str = "accuracy") -> CascadeMetrics:
        """Metrics of this cascade at other thresholds.

        Args:
            thresholds: on the score.
            metric: a name in `lit_cascade.core.METRICS`.

        Raises:
            UsageError: an unknown metric, or one that is not defined for so many classes.
        """
        rule = replace(self.cascade.policy, thresholds=None, floors=())
        return CascadeMetrics(
            [replace(rule, thresholds=(one,) * (rule.stages - 1)) for one in thresholds],
            num_stages=rule.stages,
            metric=metric,
            num_classes=None if self.class_names is None else len(self.class_names),
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

    def training_step(self, *_: Any) -> None:
        """Refuse: a cascade is made of trained stages.

        Raises:
            UsageError: always.
        """
        self.configure_optimizers()

    def configure_optimizers(self) -> None:
        """Refuse, before anything else of `Trainer.fit` runs.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "model: a LitCascade has nothing to fit; train each stage by itself, with "
            "trainer.fit(LitClassifier(network), data) or `lit-cascade fit`."
        )

    def on_validation_epoch_start(self) -> None:
        """Prepare the means."""
        names = [f"accuracy/{name}" for name in self.names]
        names += [] if self.policy.thresholds is None else _OF_CASCADE
        self._start_means(names, len(self.trainer.num_val_batches))

    def validation_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Run every stage on the whole batch.

        Args:
            batch: `(inputs, labels)`, or a dict with an entry `labels`; or a `PositionedBatch`,
                whose metrics are not logged.
            batch_idx: number of the batch.
            dataloader_idx: number of its loader.

        Returns:
            `labels`, and per stage `logits.NAME` (N, C) float32, `flops.NAME` (N,) float64 and, for
            padded batches, `executed_flops.NAME`.

        Raises:
            CascadeError: stages with different numbers of classes, logits that are not finite, or
                labels that are no classes.
        """
        if isinstance(batch, PositionedBatch):
            return super().validation_step(batch, batch_idx)
        loaders = self.trainer.val_dataloaders
        self._align_with(loaders, batch_idx, dataloader_idx)
        rows = super().validation_step(batch, batch_idx)
        rows = unrepeated(rows, loaders, batch_idx, dataloader_idx)
        labels = rows["labels"]
        logits = [rows[f"logits.{name}"] for name in self.names]
        if len(labels):
            for name, one in zip(self.names, logits, strict=True):
                check_logits(one, f"stage {name!r}")
            check_labels(labels, len(labels), logits[0].shape[1], "data: a batch")
        columns = {
            f"accuracy/{name}": is_right(answers_of(one), labels)
            for name, one in zip(self.names, logits, strict=True)
        }
        if self.policy.thresholds is not None:
            done = replay(logits, self.policy)
            flops = torch.stack([rows[f"flops.{name}"] for name in self.names], dim=1)
            spent = flops.cumsum(dim=1).gather(1, done.stage[:, None].to(flops.device)).squeeze(1)
            columns |= _columns(done.prediction, done.stage, labels, spent, flops[:, -1])
        self._means[dataloader_idx].update(columns)
        return rows

    def on_validation_epoch_end(self) -> None:
        """Log the means."""
        self._log_means("val")

    def on_test_start(self) -> None:
        """Check that the cascade can run."""
        self.policy.required_thresholds(self.names)
        self.remarks, self._stream = [], None

    def on_test_epoch_start(self) -> None:
        """Prepare the means."""
        self._start_means(_OF_CASCADE, len(self.trainer.num_test_batches))

    def on_test_epoch_end(self) -> None:
        """Log the means."""
        self._log_means("test")

    def on_test_end(self) -> None:
        """Release the loaders of deferred samples."""
        self._stream = None

    def test_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor] | None:
        """Run the cascade for real.

        Where a split is read for evaluation, deferred samples are gathered over some batches, and
        the rows of several batches are returned once they are complete.

        Args:
            batch: as for `validation_step`.
            batch_idx: number of the batch.
            dataloader_idx: number of its loader.

        Returns:
            `labels`, `prediction`, `stage`, `score`, the number of `classes`, and FLOPs per sample:
            `flops.NAME` of each stage, 0 where it did not run, `executed_flops.NAME` with the
            padding of the batch, and `flops_alone` of the last stage alone.

        Raises:
            CascadeError: NaN or infinite logits, or labels that are no classes.
        """
        if isinstance(batch, PositionedBatch):
            if self._stream is None:
                data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
                self._stream = SplitStream(self, data, metered=self.metered)
            batches = self.trainer.num_test_batches[0]
            return self._stream.step(batch, last=batch_idx + 1 == batches)
        loaders = self.trainer.test_dataloaders
        self._align_with(loaders, batch_idx, dataloader_idx)
        inputs, rows = inputs_and_rows(batch)
        output = self(inputs)
        rows |= answer_rows(output, None, self.names)
        stage = output.stage.cpu()
        for k, name in enumerate(self.names):
            ran = stage >= k
            rows[f"flops.{name}"] = self.flops(name, inputs) * ran
            rows[f"executed_flops.{name}"] = self._with_padding(name, inputs) * ran
        rows["flops_alone"] = self.flops(self.names[-1], inputs)
        alone = self._with_padding(self.names[-1], inputs)
        own = unrepeated(rows | {"alone": alone}, loaders, batch_idx, dataloader_idx)
        alone = own.pop("alone")
        labels = own["labels"]
        check_labels(labels, len(labels), output.logits.shape[1], "data: a batch")
        spent = torch.stack([own[f"executed_flops.{name}"] for name in self.names]).sum(dim=0)
        columns = _columns(own["prediction"], own["stage"], labels, spent, alone)
        self._means[dataloader_idx].update(columns)
        return own

    def _align_with(self, loaders: Any, batch_idx: int, dataloader_idx: int) -> None:
        """Before the first batch of a loader, answer among the classes that its data name."""
        if batch_idx == 0:
            dataset = getattr(loader_of(loaders, dataloader_idx), "dataset", None)
            names, restricts = class_names_of(dataset)
            data = getattr(self.trainer, "datamodule", None)
            given = getattr(data, "class_names", None)
            self.align(names if given is None else tuple(map(str, given)), fewer=restricts)

    def _with_padding(self, name: str, inputs: Inputs) -> Tensor:
        """FLOPs of a stage on each sample, with the padding of the batch, (N,) float64."""
        padded = self.executed_flops(name, inputs)
        return self.flops(name, inputs) if padded is None else padded

    def _start_means(self, names: Sequence[str], loaders: int) -> None:
        # mps has no double precision
        device = torch.device("cpu") if self.device.type == "mps" else self.device
        self._means = [SampleMeans(names).to(device) for _ in range(loaders)]

    def _log_means(self, loop: str) -> None:
        """Log the means over all processes, if the loop did not read a split for evaluation."""
        logged = []
        for one in self._means:
            means = one.compute() if one.update_called else {}
            if "flops" in means:
                means["flops_ratio"] = means["flops"] / means.pop("flops_alone")
            logged.append(means)
        log_by_loader(self, loop, logged, prog_bar=True)
        self._means = []

    def on_predict_start(self) -> None:
        """Check that the cascade can run."""
        self.policy.required_thresholds(self.names)

    def predict_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Run the cascade for real, and predict.

        Args:
            batch: `inputs`, `(inputs,)`, `(inputs, labels)`, or a dict, perhaps with an entry
                `labels`. Labels are dropped. The form decides, never the values: several tensors
                without labels need `((first, second),)` or a dict.
            batch_idx: number of the batch.
            dataloader_idx: number of its loader.

        Returns:
            Per sample `prediction`, the number of the `stage` that answered, its `score`, and the
            `probability` of the prediction. On several processes each has those of its own samples.

        Raises:
            CascadeError: NaN or infinite logits, or a batch of another form.
        """
        self._align_with(self.trainer.predict_dataloaders, batch_idx, dataloader_idx)
        output = self(inputs_of(batch))
        rows = answer_rows(output, None, self.names)
        del rows["classes"]
        return rows | {"probability": self.cascade.probability(output)}


def configured_cascade(
    stages: dict[str, Stage],
    policy: PolicyOptions | None = None,
    channels_last: bool = False,  # noqa: FBT001, FBT002 - a setting
    compiled: bool = False,  # noqa: FBT001, FBT002 - a setting
) -> LitCascade:
    """Two or more trained classifiers of the same classes, cheapest first, as a cascade.

    `LitCascade` of the types that a config can hold, which a parser reads here.

    Args:
        stages: the classifiers by name, cheapest first.
        policy: score, temperatures and thresholds; running the cascade needs thresholds.
        channels_last: keep weights in the memory layout in which convolutions on GPUs are fastest.
        compiled: run the stages through `torch.compile`.
    """
    return LitCascade(stages, policy, channels_last, compiled)


_OF_CASCADE = ["accuracy", "deferral_rate", "flops", "flops_alone"]
"""Columns whose means are logged of a cascade."""


def _columns(
    prediction: Tensor, stage: Tensor, labels: Tensor, flops: Tensor, alone: Tensor
) -> dict[str, Tensor]:
    """Numbers of each sample, by the names in `_OF_CASCADE`."""
    values = (is_right(prediction, labels), stage > 0, flops, alone)
    return dict(zip(_OF_CASCADE, values, strict=True))


def _stage_of(network: nn.Module) -> Stage:
    return Stage(cast("Callable[[], nn.Module]", network))


def answer_rows(
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
        rows |= answer_rows(output, rows["positions"], names)
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
