"""Training that stops early, keeps the best weights, and can be resumed after every epoch."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from lit_cascade.lit.reading import attached, call_in_loop, evaluating, limited, on_main_process
from lit_cascade.lit.training.classifier import LitClassifier
from lit_cascade.utilities.resume import UnfinishedRun
from lit_cascade.utilities.tensors import load_tensors


@dataclass(frozen=True)
class Best:
    """Weights that were kept because they had the best score on a split.

    Attributes:
        split: its name.
        metric: the score, such as accuracy.
        epoch: counted from 1.
        score: value of the metric after that epoch.
    """

    split: str
    metric: str
    epoch: int
    score: float


@dataclass(frozen=True)
class Training:
    """Result of a training.

    Attributes:
        epochs: number of finished epochs.
        best: the weights that were kept; None if those of the last epoch.
        resumed: number of epochs that an earlier run had finished.
    """

    epochs: int
    best: Best | None = None
    resumed: int = 0


@explained()
def train(
    trainer: Trainer,
    model: LitClassifier,
    datamodule: LightningDataModule,
    patience: int | None = None,
    stop_on: str = "development",
    folder: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Training:
    """Train a classifier. Every process must take part.

    Unlike `Trainer.fit` it trains networks with preprocessing of their own, learns from a teacher,
    checks that network and data have the same classes, and may stop early.

    Args:
        trainer: runs the training.
        model: the classifier.
        datamodule: the data.
        patience: stop when the score on `stop_on` has not improved for this many validations (by
            default there is one per epoch), and keep the weights with the best score. None trains
            to the end and keeps the last weights.
        stop_on: split for that; the score is its official metric, otherwise accuracy.
        folder: for a checkpoint after every epoch, on a disk that all processes share. The same
            call again resumes from it. Remove it with `UnfinishedRun(folder).remove()` once the
            results are saved. None keeps no checkpoint.
        settings: everything that the training depends on, plain JSON; a training is resumed only if
            they are the same.

    Returns:
        The result, on every process.

    Raises:
        UsageError: an unknown split, a patience that cannot be used, or a folder with a training of
            other settings.
        CascadeError: classes, labels or a teacher that do not fit the data.
    """
    check_split(datamodule, "train")
    judge_on = "validation" if has_split(datamodule, "validation") else None
    callbacks: list[Callback] = []
    best = None
    if patience is not None:
        _check_patience(trainer, datamodule, patience, stop_on)
        judge_on, best = stop_on, BestWeights(model.score_name)
        callbacks = [EarlyStopping(model.score_name, patience=patience, mode="max"), best]
    path, resumed = None, 0
    if folder is not None:
        checkpoint, resumed = _checkpoint(trainer, Path(folder), settings or {})
        path = checkpoint.path if resumed else None
        callbacks.append(checkpoint)  # the last, since it saves the state of the others
    data = TrainingData(
        datamodule, judge_on, model.preprocessings(), model.make_ready, model.check_labels
    )
    limit: Any = trainer.limit_val_batches if judge_on is not None else 0
    with limited(trainer, limit), attached(trainer, *callbacks):
        trainer.fit(model, datamodule=data, ckpt_path=path, weights_only=True)
    kept = None if best is None else _restored(trainer, model, stop_on, best)
    # the loop does not count the epochs of a training that was finished already
    return Training(max(trainer.current_epoch, resumed), kept, resumed)


def _restored(
    trainer: Trainer, model: LitClassifier, stop_on: str, best: BestWeights
) -> Best | None:
    """Load the best weights, which the main process has, into the model on every process."""
    weights = on_main_process(trainer, lambda: best.weights)
    if best.best is None:  # training ended before the first validation
        return None
    model.load_state_dict(weights)
    return Best(stop_on, model.metric, best.epoch, best.best)


def _check_patience(
    trainer: Trainer, datamodule: LightningDataModule, patience: int, stop_on: str
) -> None:
    if patience < 1:
        raise UsageError(f"patience: expected 1 or more validations, got {patience}.")
    if stop_on == "train":
        raise UsageError(
            "stop_on: the score on the training split improves without end; expected a split that "
            "is held back, such as development, calibration or validation."
        )
    try:
        check_split(datamodule, stop_on)
    except UsageError as error:
        raise UsageError(
            f"stop_on: patience watches a split that is held back. {error} Give one of them "
            "other than train, or no patience."
        ) from error
    if trainer.limit_val_batches == 0:
        raise UsageError("patience: needs validation, and trainer.limit_val_batches is 0.")


def _checkpoint(
    trainer: Trainer, folder: Path, settings: Mapping[str, Any]
) -> tuple[EpochCheckpoint, int]:
    """The checkpoint in a folder, and the number of epochs that it holds."""
    if trainer.world_size > 1:  # starts the other processes
        nothing = DataLoader(TensorDataset(torch.zeros(trainer.world_size)))
        with isolate_rng(), evaluating(trainer):
            call_in_loop(trainer, lambda: None, nothing)

    def find() -> tuple[EpochCheckpoint, int]:
        plan = {**settings, "processes": trainer.world_size}
        checkpoint = EpochCheckpoint(UnfinishedRun(folder), plan)
        resumes = checkpoint.run.resumes(plan) and checkpoint.path.exists()
        return checkpoint, _epochs_in(checkpoint.path) if resumes else 0

    return on_main_process(trainer, find)


def _epochs_in(path: Path) -> int:
    """Number of finished epochs in a file of `EpochCheckpoint`."""
    try:
        return int(load_tensors(path)["epoch"]) + 1
    except (CascadeError, LookupError, TypeError, ValueError) as error:
        raise UsageError(
            f"--out: {str(path)!r} is damaged; remove {str(path.parent)!r} to start anew."
        ) from error


class BestWeights(Callback):
    """Keeps the weights of the validation with the best score, the first of equal ones.

    They stay in memory and are saved with `EpochCheckpoint`: a file of their own could be of
    another epoch if the run is killed.

    Args:
        score: name under which the validation loop logs it; larger is better.

    Attributes:
        best: the score; None before the first validation.
        epoch: counted from 1.
        weights: state dict of the module, on the main process.
    """

    def __init__(self, score: str) -> None:
        self._score = score
        self.best: float | None = None
        self.epoch = 0
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the score with the best so far."""
        del pl_module
        if trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics[self._score])
        score = -math.inf if math.isnan(score) else score  # any other is better
        if self.best is not None and not score > self.best:
            return
        self.best, self.epoch = score, trainer.current_epoch + 1
        weights = trainer.strategy.lightning_module_state_dict()  # every process takes part
        if trainer.is_global_zero:
            self.weights = {name: value.detach().cpu().clone() for name, value in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"best": self.best, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
        self.weights = state_dict["weights"]


class EpochCheckpoint(Checkpoint):
    """Saves the state of a training after every epoch, to a file that is written whole or not.

    The states of all random number generators are saved too, so that a resumed training gives the
    same weights. Those of persistent workers are not.

    Args:
        run: folder for the file, on a disk that all processes share; made after the first epoch.
        plan: of the run.

    Attributes:
        run: see above.
        path: of the file.
    """

    _KEY = "random_numbers"

    def __init__(self, run: UnfinishedRun, plan: Mapping[str, Any]) -> None:
        self.run, self._plan = run, plan
        self.path = run.folder / "last.ckpt"
        self._random: Mapping[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make a training with `max_steps` resume after an epoch, like one with `max_epochs`.

        Lightning would resume it within the epoch, one batch beyond its end.
        """
        del pl_module, stage
        vars(trainer.fit_loop)["_iteration_based_training"] = lambda: False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the Trainer."""
        del pl_module, stage
        vars(trainer.fit_loop).pop("_iteration_based_training", None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once if the interrupted run had run out of patience."""
        del pl_module
        for stopping in trainer.early_stopping_callbacks:
            if stopping.wait_count >= stopping.patience:
                trainer.should_stop = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random number generators, after everything is set up."""
        del pl_module
        if self._random is None:
            return
        _set_random(self._random, trainer)
        self._random = None
        loop = trainer.fit_loop
        if getattr(loop, "is_resuming", False) or loop.epoch_loop.restarting:
            # Lightning would keep the iterator made during set-up, with other random numbers
            iter(vars(loop)["_data_fetcher"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file.

        Raises:
            CascadeError: the disk is full, or the folder cannot be written to.
        """
        del pl_module
        written = self.path.with_name(f".{self.path.name}.new")
        if trainer.is_global_zero:
            self.run.start(self._plan)
        try:
            trainer.save_checkpoint(written)
            if trainer.is_global_zero:
                with written.open("rb+") as file:
                    os.fsync(file.fileno())
                written.replace(self.path)
        except OSError as error:
            written.unlink(missing_ok=True)
            raise CascadeError(
                f"cannot write {str(self.path)!r}: {error.strerror or error}. Earlier epochs "
                "are kept: the same command resumes from them."
            ) from error

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the states of the random number generators of every process."""
        del pl_module
        states = [_random_states(trainer)] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, states[0])
        checkpoint[self._KEY] = states

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Hold the states of this process until training starts."""
        del pl_module
        self._random = checkpoint[self._KEY][trainer.global_rank]


def _random_states(trainer: Trainer) -> dict[str, Any]:
    """States of the random number generators of this process, as tensors and plain values."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - datasets may use it
    loader = _loader_generator(trainer)
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
    loader = _loader_generator(trainer)
    if loader is not None and states["loader"] is not None:
        loader.set_state(states["loader"])


def _loader_generator(trainer: Trainer) -> torch.Generator | None:
    """The training loader's own random number generator, if it has one."""
    generator = getattr(trainer.train_dataloader, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None
