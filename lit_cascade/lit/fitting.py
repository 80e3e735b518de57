"""Training that ends when it stops to help, and keeps the best weights it had."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, TensorDataset

from lit_cascade.data import TrainingData, check_split, has_split
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.lit.classifier import LitClassifier
from lit_cascade.lit.failures import explained
from lit_cascade.lit.keeping import BestWeights, Keeping
from lit_cascade.lit.reading import ReadingTrainer
from lit_cascade.lit.results import Best, Training
from lit_cascade.utilities.resume import Unfinished
from lit_cascade.utilities.tensors import load_tensors

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
        folder: Path | str | None = None,
        settings: Mapping[str, Any] | None = None,
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
            folder: keep the training there after every epoch, and go on with what is kept there.
                It lies on a disk that all processes share; `Unfinished(folder).remove()` removes it
                once what came of the training is in safety. None keeps nothing.
            settings: what the training depends on, plain JSON: a training that was kept goes on
                only where they are the same.

        Raises:
            UsageError: no such split, patience that cannot be, or a folder that keeps a training
                with other settings.
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
        added: list[Callback] = []
        best = None
        if patience is not None:
            best = BestWeights(model.score_name)
            added = [EarlyStopping(model.score_name, patience=patience, mode="max"), best]
        path, resumed = None, 0
        if folder is not None:
            plan = {**(settings or {}), "processes": self.world_size}
            unfinished, resumed = self._taken_up(Path(folder), plan)
            path = unfinished.folder / Keeping.FILE
            # the last: it writes what the others know
            added.append(Keeping(unfinished, plan))
        limit = self.limit_val_batches
        if shown is None:
            self.limit_val_batches = 0
        self._callbacks().extend(added)
        try:
            self.fit(model, datamodule=data, ckpt_path=path if resumed else None, weights_only=True)
        finally:
            self.limit_val_batches = limit
            for callback in added:
                self._callbacks().remove(callback)
        chosen = None if best is None else self._restored(model, stop_on, best)
        # a training that was finished already is not counted by the loop
        return Training(max(self.current_epoch, resumed), chosen, resumed)

    def _taken_up(self, folder: Path, plan: Mapping[str, Any]) -> tuple[Unfinished, int]:
        """Where the training is kept, and how many epochs of it; each process is told the same."""
        self._bring_up()
        found: tuple[Unfinished, int] | CascadeError | None = None
        if self.is_global_zero:
            unfinished, path = Unfinished(folder), folder / Keeping.FILE
            try:
                begun = unfinished.begun(plan) and path.exists()
                found = unfinished, _epochs_in(path) if begun else 0
            except CascadeError as error:
                found = error
        found = self.strategy.broadcast(found)
        if isinstance(found, CascadeError):
            raise found
        return cast("tuple[Unfinished, int]", found)

    def _bring_up(self) -> None:
        """Start all processes, so that they can be told something before they train."""
        if self.world_size == 1:
            return
        with isolate_rng(), self.attached(Callback()):
            nothing = TensorDataset(torch.zeros(self.world_size))
            self.validate(_Idle(), DataLoader(nothing), verbose=False)

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

    def _restored(self, model: LitClassifier, stop_on: str, found: BestWeights) -> Best | None:
        """Load the best weights, which the main process has, into the model on every process."""
        weights = self.strategy.broadcast(found.weights)
        if found.best is None:  # ended before the first validation
            return None
        model.load_state_dict(weights)
        return Best(stop_on, model.metric, found.epoch, found.best)


class _Idle(LightningModule):
    """Does nothing."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        del batch, batch_idx


def _epochs_in(path: Path) -> int:
    """How many epochs were finished when a file of `Keeping` was written.

    Raises:
        UsageError: it is none.
    """
    try:
        return int(load_tensors(path)["epoch"]) + 1
    except (CascadeError, LookupError, TypeError, ValueError) as error:
        raise UsageError(
            f"--out: {str(path)!r} is damaged; remove {str(path.parent)!r} to start anew."
        ) from error
