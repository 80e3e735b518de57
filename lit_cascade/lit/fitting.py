"""Training that ends when it stops to help, and keeps the best weights it had."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_cascade.data.splits import check_split, has_split
from lit_cascade.data.training import TrainingData
from lit_cascade.errors import UsageError
from lit_cascade.lit.classifier import LitClassifier
from lit_cascade.lit.failures import explained
from lit_cascade.lit.reading import ReadingTrainer
from lit_cascade.lit.results import Best, Training

__all__ = ["FittingTrainer"]


class FittingTrainer(ReadingTrainer):
    """A Lightning Trainer that trains one classifier on data as its network takes them."""

    @explained()
    def train(
        self,
        model: LitClassifier,
        datamodule: LightningDataModule,
        patience: int | None = None,
        stop_on: str = "development",
    ) -> Training:
        """Train a classifier; every process must take part, and every one is told the result.

        Unlike `fit` it trains networks that have preprocessing of their own, learns from a teacher,
        checks that network and data mean the same classes, and may stop early.

        Args:
            model: the classifier.
            datamodule: the data.
            patience: stop when the score on `stop_on` has not risen for this many validations,
                which there is one of per epoch unless the Trainer says otherwise, and keep the
                weights that had the best. None trains to the end and keeps the last weights.
            stop_on: the split for that; the score is its official metric, else accuracy.

        Raises:
            UsageError: no such split, or patience that cannot be.
            CascadeError: classes, labels or a teacher that do not fit the data.
        """
        check_split(datamodule, "train")
        shown = "validation" if has_split(datamodule, "validation") else None
        if patience is not None:
            self._check_patience(datamodule, patience, stop_on)
            shown = stop_on
        data = TrainingData(
            datamodule, shown, model.preprocessings(), model.make_ready, model.check_labels
        )
        limit = self.limit_val_batches
        if shown is None:
            self.limit_val_batches = 0
        try:
            if patience is None:
                self.fit(model, datamodule=data)
                return Training(epochs=self.current_epoch)
            with self._keeping_best(model, patience) as kept:
                self.fit(model, datamodule=data)
                return self._restored(model, stop_on, kept)
        finally:
            self.limit_val_batches = limit

    def _check_patience(self, datamodule: LightningDataModule, patience: int, stop_on: str) -> None:
        if patience < 1:
            raise UsageError(f"patience: expected 1 or more validations, got {patience}.")
        if stop_on == "train":
            raise UsageError(
                "stop_on: the training split gets better without end; expected one that is held "
                "back, such as development, calibration or validation."
            )
        try:
            check_split(datamodule, stop_on)
        except UsageError as error:
            raise UsageError(
                f"stop_on: patience watches a split that is held back. {error} Give one of them "
                "other than train, or no patience."
            ) from error
        if self.limit_val_batches == 0:
            raise UsageError("patience: needs validation, and trainer.limit_val_batches is 0.")

    @contextmanager
    def _keeping_best(self, model: LitClassifier, patience: int) -> Iterator[ModelCheckpoint]:
        with tempfile.TemporaryDirectory(prefix="lit-cascade-fit-") as folder:
            kept = ModelCheckpoint(
                folder, "best", model.score_name, mode="max", save_weights_only=True
            )
            added = [EarlyStopping(model.score_name, patience=patience, mode="max"), kept]
            for callback in added:
                self.add_callback(callback)
            try:
                yield kept
            finally:
                for callback in added:
                    self._callbacks().remove(callback)

    def _restored(self, model: LightningModule, stop_on: str, kept: ModelCheckpoint) -> Training:
        """Load the best weights, which the main process has, into the model on every process."""
        found: dict[str, Any] | None = None
        if self.is_global_zero and kept.best_model_path:
            found = torch.load(kept.best_model_path, map_location="cpu", weights_only=True)
        best: tuple[Any, int] | None = None
        if found is not None:
            best = (found["state_dict"], int(found["epoch"]) + 1)
        best = self.strategy.broadcast(best)
        if best is None or kept.best_model_score is None:  # ended before the first validation
            return Training(epochs=self.current_epoch)
        weights, epoch = best
        model.load_state_dict(weights)
        metric = str(getattr(model, "metric", "accuracy"))
        return Training(
            self.current_epoch, Best(stop_on, metric, epoch, float(kept.best_model_score))
        )
