"""A training that is kept on disk after every epoch, to be taken up; and its best weights."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from lit_cascade.errors import CascadeError
from lit_cascade.utilities.resume import Unfinished

__all__ = ["BestWeights", "Keeping"]


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
