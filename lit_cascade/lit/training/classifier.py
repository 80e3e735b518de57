"""Training one stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lit_cascade.core import answers_of, probabilities_of
from lit_cascade.data import ImageData, SplitInfo, TextData
from lit_cascade.errors import CascadeError, UsageError, check_file_name, check_labels, check_name
from lit_cascade.lit.metrics import ClassifierMetric
from lit_cascade.lit.stages import inputs_and_rows, unrepeated
from lit_cascade.lit.training.losses import (
    SCHEDULES,
    Schedule,
    distillation_loss,
    gatekeeper_loss,
    scheduler,
)
from lit_cascade.lit.training.teacher import Teacher, teacher_logits
from lit_cascade.live import FlopMeter, Preprocessing, forward_logits, inputs_of
from lit_cascade.models import load_weights
from lit_cascade.utilities.class_names import columns_of


class LitClassifier(LightningModule):
    """A classifier trained with AdamW, from scratch or from other weights.

    `Trainer.fit` of any Lightning Trainer logs `train_loss` of the steps, `train_loss_epoch`, and
    `val_accuracy` after each epoch; `Trainer.test` logs `test_accuracy`. The samples that a
    `DistributedSampler` repeats are left out of both.

    Half-precision weights are converted to float32, as small steps would be lost otherwise;
    `--trainer.precision bf16-mixed` still computes in half precision.

    Args:
        network: class (class_path and init_args) of the network; in Python also a module.
        name: of the stage and its checkpoint.
        learning_rate: peak of the schedule.
        weight_decay: of AdamW.
        label_smoothing: share of each target spread over all classes, 0 to 1.
        checkpoint: weights to start from: .safetensors, or a .pt or .ckpt file of tensors; a path,
            or the name of a bundled checkpoint. By default the network's own initial weights.
        schedule: of the learning rate per step: one_cycle rises and falls once over the whole run
            (arXiv:1708.07120); linear rises linearly to the peak and falls linearly to 0, as is
            usual for fine-tuning.
        warmup: share of the steps for which a linear schedule rises, 0 to 1.
        teacher: a larger model to learn from besides the labels (arXiv:1503.02531).
        gatekeeper: alpha, 0 to 1, of the Gatekeeper loss, which replaces cross entropy
            (arXiv:2502.19335). It makes the stage confident where it is right and uncertain where
            it is wrong, so that a cascade defers the right samples; smaller values give up more
            accuracy for that. Meant for a network that is trained already: see checkpoint.
    """

    score_name = "val_score"
    """Name under which the score of the validation loop is logged, whatever the data."""

    def __init__(
        self,
        network: Callable[[], nn.Module],
        name: str = "stage",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        label_smoothing: float = 0.0,
        checkpoint: str | None = None,
        schedule: Schedule = "one_cycle",
        warmup: float = 0.1,
        teacher: Teacher | None = None,
        gatekeeper: float | None = None,
    ) -> None:
        super().__init__()
        check_file_name(name, "model.name")
        check_name(schedule, SCHEDULES, "model.schedule")
        _check_share(warmup, "model.warmup")
        if gatekeeper is not None:
            _check_share(gatekeeper, "model.gatekeeper")
            if label_smoothing:
                raise UsageError(
                    "model.label_smoothing: belongs to cross entropy, which model.gatekeeper "
                    f"replaces; expected 0, got {label_smoothing}."
                )
        self.name = name
        if not callable(network):
            raise UsageError(
                "model.network: expected an nn.Module, or a function that makes one, got a "
                f"{type(network).__name__}."
            )
        self.network = network if isinstance(network, nn.Module) else network()
        self.class_names = load_weights(self.network, checkpoint, name, "model.checkpoint")
        if any(p.is_floating_point() and p.element_size() < 4 for p in self.network.parameters()):
            self.network.float()
        self.network.train()  # those of transformers are not, and Lightning keeps that
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.schedule = schedule
        self.warmup = warmup
        self.teacher = teacher
        self.gatekeeper = gatekeeper
        self.metric = "accuracy"
        self.score: ClassifierMetric | None = None
        self._teacher_logits: Tensor | None = None
        self._classes: int | None = None
        self._meter = FlopMeter(self.network)

    def preprocessings(self) -> list[Preprocessing | None]:
        """Preprocessing of the network; None without."""
        return [getattr(self.network, "preprocessing", None)]

    def setup(self, stage: str) -> None:
        """Refuse data whose samples this network preprocesses, unless they come preprocessed.

        Raises:
            UsageError: images or texts as a data module of this package gives them.
        """
        del stage
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, (ImageData, TextData)) and self.preprocessings() != [None]:
            raise UsageError(
                f"data: the samples of {type(data).__name__} are raw, and the network has "
                "preprocessing of its own: train with CascadeTrainer.train(model, data) or "
                "`lit-cascade fit`, which apply it where the data are loaded."
            )

    def make_ready(
        self, train: SplitInfo | None, judged: SplitInfo | None, classes: Sequence[str] | None
    ) -> None:
        """Check that the data fit, and read the teacher's logits, before training.

        A network whose attribute `undecided` is true gets a head for the classes of the data, by
        its method `decide_classes`.

        Args:
            train: the training split; None if its samples have no positions.
            judged: the split of the validation loop, if any.
            classes: names in label order; None if the data do not name them.

        Raises:
            UsageError: fewer than two classes; a teacher, and training samples without positions;
                or data without class names, and a network that waits for them.
            CascadeError: other classes than the network's, or a teacher that does not fit the data.
        """
        if classes is not None and len(classes) < 2:
            raise UsageError(
                f"data: training needs two or more classes, got {', '.join(classes) or 'none'}. "
                "Of a folder of images the classes are the folders in it."
            )
        if getattr(self.network, "undecided", False):
            if classes is None:
                raise UsageError(
                    "model.network: num_classes: data needs data that name their classes; "
                    "expected the number of classes."
                )
            cast("Any", self.network).decide_classes(classes)
            self.class_names = tuple(classes)
        known = self.class_names
        if classes is not None and known is not None:
            who = f"the network of {self.name!r}"
            if columns_of(known, classes, who, "the data") is not None:
                at = next(i for i, (a, b) in enumerate(zip(known, classes, strict=True)) if a != b)
                raise CascadeError(
                    f"model.network: {who} has the classes of the data in another order: at label "
                    f"{at} it has {known[at]!r} and the data {classes[at]!r} ({', '.join(known)} "
                    f"against {', '.join(classes)}). Training needs the same order in both: "
                    "reorder the data's classes, or give the network a new head."
                )
        self.metric = (judged and judged.metric) or "accuracy"
        self.score = None
        self._teacher_logits = None
        if self.teacher is not None:
            if train is None:
                raise UsageError(
                    "model.teacher: its logits are found by the ids of the training samples: "
                    "train_dataloader must return one DataLoader of a map-style dataset."
                )
            self._teacher_logits = teacher_logits(
                self.teacher, train, known if classes is None else classes
            )

    def check_labels(self, labels: Tensor) -> None:
        """Check the labels of a training batch, except for soft labels.

        Raises:
            CascadeError: labels that are no classes of the network, or several per sample.
        """
        if labels.is_floating_point():
            return
        if labels.ndim != 1:
            raise CascadeError(
                "data: training needs one label per sample, got labels of shape "
                f"{tuple(labels.shape)}."
            )
        if self._classes is not None:  # else after the first forward pass
            check_labels(labels, len(labels), self._classes, "data: a training batch")

    def forward(self, inputs: Any) -> Tensor:
        """Logits of a batch, (N, C)."""
        return forward_logits(self.network, inputs, self.name)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of a batch, in float32."""
        del batch_idx
        inputs, rows = inputs_and_rows(batch)
        labels, positions = rows["labels"], rows.get("positions")
        logits = self(inputs).float()
        if positions is not None and bool((positions < 0).any()):  # then all are left out
            zero: Tensor = logits.sum() * 0
            self._log_epoch_loss(zero, 0)
            return zero  # the other processes wait for a step
        if positions is None or self._classes is None:
            self._classes = logits.shape[1]
            self.check_labels(labels)
        loss = self._label_loss(logits, labels)
        if self.teacher is not None:
            weight, targets = self.teacher.weight, self._targets(positions, logits)
            distillation = distillation_loss(logits, targets, self.teacher.temperature)
            loss = (1 - weight) * loss + weight * distillation
        self.log("train_loss", loss, prog_bar=True, batch_size=len(labels))
        # a short run may end before a logger is given the loss of a step
        self._log_epoch_loss(loss, len(labels))
        return loss

    def _log_epoch_loss(self, loss: Tensor, n: int) -> None:
        self.log(
            "train_loss_epoch", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=n
        )

    def _label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.gatekeeper is None:
            return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        if labels.is_floating_point():
            raise CascadeError("model.gatekeeper: needs one label per sample, got soft labels.")
        return gatekeeper_loss(logits, labels, self.gatekeeper)

    def _targets(self, positions: Tensor | None, logits: Tensor) -> Tensor:
        """The teacher's logits for the samples at some positions, (N, C) float32."""
        if positions is None or self._teacher_logits is None:
            raise UsageError(
                "model.teacher: its logits are found by the ids of the training samples: train "
                "with CascadeTrainer.train, or lit-cascade fit."
            )
        targets = self._teacher_logits[positions].to(logits.device).float()
        if targets.shape != logits.shape:
            raise CascadeError(
                f"teacher.record: has {targets.shape[1]} classes, and the network of {self.name!r} "
                f"has {logits.shape[1]}."
            )
        return targets

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Predictions for a batch. Logs their score, unless a split is read for evaluation.

        Returns:
            `labels` and `prediction`; if the split is read for evaluation `positions`, `flops` and
            the number of `classes`, too.
        """
        inputs, rows = inputs_and_rows(batch)
        logits = self(inputs)
        rows["prediction"] = prediction = answers_of(logits)
        # under its own name for users, and for callbacks under one independent of the data
        names = {f"val_{self.metric}": True, self.score_name: False}
        if "positions" not in rows:
            rows = unrepeated(rows, self.trainer.val_dataloaders, batch_idx)
            self._score(rows, logits.shape[1], names)
        elif self.trainer.state.fn == TrainerFn.FITTING:
            mine = rows["positions"] >= 0
            self._score({key: value[mine] for key, value in rows.items()}, logits.shape[1], names)
        else:
            rows |= {
                "classes": torch.full_like(prediction, logits.shape[1]),
                "flops": self._meter(inputs),
            }
        return rows

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Predictions for a batch, `labels` and `prediction`. Logs their score."""
        inputs, rows = inputs_and_rows(batch)
        logits = self(inputs)
        rows["prediction"] = answers_of(logits)
        rows = unrepeated(rows, self.trainer.test_dataloaders, batch_idx)
        self._score(rows, logits.shape[1], {f"test_{self.metric}": True})
        return rows

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Answer a batch, with labels or without, in the forms that `LitCascade` takes.

        Returns:
            Per sample the `prediction` and its `probability`.
        """
        del batch_idx
        logits = self(inputs_of(batch))
        prediction = answers_of(logits)
        probability = probabilities_of(logits).gather(1, prediction[:, None]).squeeze(1)
        return {"prediction": prediction, "probability": probability}

    def _score(self, rows: Mapping[str, Tensor], classes: int, names: Mapping[str, bool]) -> None:
        """Add a batch to the score that is logged under some names; True shows it as it runs."""
        prediction, labels = rows["prediction"], rows["labels"]
        check_labels(labels, len(labels), classes, "data: a batch")
        if self.score is None:
            self.score = ClassifierMetric(self.metric, classes).to(self.device)
        self.score.update(prediction, labels)
        for name, shown in names.items():
            self.log(
                name, self.score, prog_bar=shown, batch_size=len(labels), metric_attribute="score"
            )

    def configure_optimizers(self) -> Any:
        """AdamW, and a schedule of its learning rate per step over the whole run."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        steps = self.trainer.estimated_stepping_batches
        schedule = scheduler(optimizer, self.schedule, steps, self.learning_rate, self.warmup)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _check_share(value: float, argument: str) -> None:
    if not 0 <= value <= 1:
        raise UsageError(f"{argument}: expected 0 to 1, got {value}.")
