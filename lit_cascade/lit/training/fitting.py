"""Training that ends when it stops to help, and keeps the best weights it had."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lit_cascade.data import TrainingData, check_split, has_split
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.lit.failures import explained
from lit_cascade.lit.reading import ReadingTrainer
from lit_cascade.lit.results import Best, Training
from lit_cascade.lit.training.classifier import LitClassifier
from lit_cascade.utilities.resume import Unfinished
from lit_cascade.utilities.tensors import load_tensors

__all__ = ["BestWeights", "FittingTrainer", "Keeping"]


class BestWeights(Callback):
    """Remembers the weights after the validation with the best score so far, the first of equals.

    In main memory, and with everything else in what `Keeping` writes: a file of their own might
    be of another epoch than the rest when a run is killed.

    Args:
        score: what the validation loop logs, the more the better.

    Attributes:
        best: the score, None before the first validation.
        epoch: after which it was had, counted from 1.
        weights: the module's.
    """

    def __init__(self, score: str) -> None:
        self._score = score
        self.best: float | None = None
        self.epoch = 0
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare."""
        del pl_module
        if trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics[self._score])
        score = -math.inf if math.isnan(score) else score  # any other is better
        if self.best is not None and not score > self.best:
            return
        self.best, self.epoch = score, trainer.current_epoch + 1
        weights = trainer.strategy.lightning_module_state_dict()  # each process takes part
        if trainer.is_global_zero:
            self.weights = {name: value.detach().cpu().clone() for name, value in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
        self.weights = state_dict["weights"]


class Keeping(Checkpoint):
    """Writes the state of a training to one file after every epoch, there whole or not at all.

    With the states of all random numbers, so that training goes on as if nothing had happened.
    Workers that stay from one epoch to the next have numbers of their own, which are not kept.

    Args:
        unfinished: where to, on a disk that all processes share; made when the first epoch is over.
        plan: of it.
    """

    FILE = "last.ckpt"
    _KEY = "random_numbers"

    def __init__(self, unfinished: Unfinished, plan: Mapping[str, Any]) -> None:
        self._unfinished, self._plan = unfinished, plan
        self._path = unfinished.folder / self.FILE
        self._random: Mapping[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let a training with `max_steps` be taken up after an epoch, as one with `max_epochs` is.

        Lightning would take it to have been interrupted within the epoch, and go on one batch
        beyond its end.
        """
        del pl_module, stage
        vars(trainer.fit_loop)["_iteration_based_training"] = lambda: False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the Trainer as it was."""
        del pl_module, stage
        vars(trainer.fit_loop).pop("_iteration_based_training", None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once where the run before had found that it was to stop."""
        del pl_module
        for stopping in trainer.early_stopping_callbacks:
            if stopping.wait_count >= stopping.patience:
                trainer.should_stop = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the random numbers up, now that everything is set up."""
        del pl_module
        if self._random is None:
            return
        _set_random(self._random, trainer)
        self._random = None
        loop = trainer.fit_loop
        if getattr(loop, "is_resuming", False) or loop.epoch_loop.restarting:
            # Lightning would keep the iterator that it made during the set-up, with other numbers
            iter(vars(loop)["_data_fetcher"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write.

        Raises:
            CascadeError: the disk is full, or the place cannot be written to.
        """
        del pl_module
        written = self._path.with_name(f".{self._path.name}.new")
        if trainer.is_global_zero:
            self._unfinished.begin(self._plan)
        try:
            trainer.save_checkpoint(written)
            if trainer.is_global_zero:
                with written.open("rb+") as file:
                    os.fsync(file.fileno())
                written.replace(self._path)
        except OSError as error:
            written.unlink(missing_ok=True)
            raise CascadeError(
                f"cannot write {str(self._path)!r}: {error.strerror or error}. What was kept "
                "before is still there: the same command goes on with it."
            ) from error

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random numbers of every process."""
        del pl_module
        mine = _random_of(trainer)
        everyone = [mine]
        if trainer.world_size > 1:
            everyone = [mine] * trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)
        checkpoint[self._KEY] = everyone

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember those of this process until training starts."""
        del pl_module
        self._random = checkpoint[self._KEY][trainer.global_rank]


def _random_of(trainer: Trainer) -> dict[str, Any]:
    """States of the random numbers of this process, as tensors and plain values."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - what data sets may use
    loader = _generator(trainer)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
        "loader": None if loader is None else loader.get_state(),
    }


def _set_random(states: Mapping[str, Any], trainer: Trainer) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above
    random.setstate(states["python"])
    loader = _generator(trainer)
    if loader is not None and states["loader"] is not None:
        loader.set_state(states["loader"])


def _generator(trainer: Trainer) -> torch.Generator | None:
    """The random numbers that the training loader has to itself, if it does."""
    found = getattr(trainer.train_dataloader, "generator", None)
    return found if isinstance(found, torch.Generator) else None


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
