"""Trainings that are killed and resumed."""

import math
import os
import random
from functools import cache
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch import nn

from lit_cascade import LitClassifier, UsageError
from lit_cascade.data import Datasets
from lit_cascade.errors import CascadeError
from lit_cascade.lit.training.fitting import BestWeights
from lit_cascade.utilities.resume import UnfinishedRun
from tests.lit.cascades import trainer as quiet_trainer
from tests.toys import Net, Points

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


class KilledError(Exception):
    """As if the process ended here."""


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return self.mark.touch, ()


class Killer(Callback):
    """Ends a training at the n-th call of a hook."""

    def __init__(self, hook, n):
        self.left = n
        setattr(self, hook, self._count)

    def _count(self, trainer, *_):
        if trainer.sanity_checking:
            return
        self.left -= 1
        if self.left == 0:
            raise KilledError


class Shaken(Points):
    """Points that are never twice the same, by every kind of random numbers."""

    def __getitem__(self, position):
        x, y = super().__getitem__(position)
        more = random.random() + np.random.rand()  # noqa: S311, NPY002 - what data sets may use
        return x + torch.randn(2) * 0.1 + more, y


class Dropping(Net):
    """Forgets at random."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.2, self.training))


def data(workers=0):
    return Datasets(
        train=Shaken(37), calibration=Points(25, first=50), batch_size=4, num_workers=workers
    )


def train(folder, *callbacks, workers=0, patience=None, schedule="one_cycle", **options):
    seed_everything(3, verbose=False)
    trainer = quiet_trainer(callbacks=list(callbacks), **({"max_epochs": 4} | options))
    model = LitClassifier(lambda: Dropping(8), learning_rate=0.05, schedule=schedule)
    stop = {} if patience is None else {"patience": patience, "stop_on": "calibration"}
    found = trainer.train(model, data(workers), **stop, folder=folder, settings={"a": 1})
    return found, {name: value.clone() for name, value in model.state_dict().items()}


@cache
def uninterrupted(**settings):
    return train(None, **settings)


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


SETTINGS = [
    {},
    {"schedule": "linear", "accumulate_grad_batches": 3},
    {"patience": 1},
    {"patience": 2, "val_check_interval": 0.5},
    {"patience": 2, "check_val_every_n_epoch": 2, "schedule": "linear"},
    {"max_epochs": -1, "max_steps": 33},
]

MOMENTS = [  # ten batches are an epoch
    ("on_train_batch_end", 3, 0),
    ("on_train_batch_end", 12, 1),
    ("on_train_epoch_start", 2, 1),
    ("on_train_epoch_end", 2, 1),
    ("on_train_end", 1, None),
]

CASES = [(SETTINGS[0], *moment) for moment in MOMENTS]

CASES += [(settings, *moment) for settings in SETTINGS[1:] for moment in MOMENTS[1::3]]


@pytest.mark.parametrize(
    ("settings", "hook", "n", "resumed"), [*CASES, ({"workers": 2}, "on_train_batch_end", 12, 1)]
)
def test_a_training_that_is_killed_goes_on_as_if_nothing_had_happened(
    tmp_path, settings, hook, n, resumed
):
    whole, weights = uninterrupted(**settings)
    killer = Killer(hook, n)
    with pytest.raises(KilledError):
        train(tmp_path / "kept", killer, **settings)
    found, again = train(tmp_path / "kept", **settings)
    same(weights, again)
    assert (found.epochs, found.best) == (whole.epochs, whole.best)
    assert found.resumed == (whole.epochs if resumed is None else resumed)
    assert UnfinishedRun(tmp_path / "kept")
    UnfinishedRun(tmp_path / "kept").remove()
    assert not (tmp_path / "kept").exists()


def test_keeping_changes_nothing(tmp_path):
    plain, kept = uninterrupted(patience=2), train(tmp_path / "kept", patience=2)
    assert plain[0] == kept[0]
    same(plain[1], kept[1])


def test_a_score_that_is_no_number_is_worse_than_any():
    best, trainer = BestWeights("s"), MagicMock(sanity_checking=False, current_epoch=0)
    for score in (math.nan, 0.3, math.nan, 0.2):
        trainer.callback_metrics = {"s": score}
        best.on_validation_end(trainer, None)
    assert best.best == 0.3


def test_another_training_is_not_gone_on_with(tmp_path):
    folder = tmp_path / "kept"
    with pytest.raises(KilledError):
        train(folder, Killer("on_train_epoch_start", 2))
    assert (folder / "last.ckpt").exists()
    trainer = quiet_trainer(max_epochs=1)
    with pytest.raises(UsageError, match="interrupted run with another a: 1, now 2"):
        trainer.train(LitClassifier(Net), data(), folder=folder, settings={"a": 2})
    (folder / "last.ckpt").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"last\.ckpt' is damaged"):
        train(folder)
    mark = tmp_path / "ran"
    torch.save(Bomb(mark), folder / "last.ckpt")
    with pytest.raises(UsageError, match=r"last\.ckpt' is damaged"):
        train(folder)
    assert not mark.exists()
    (folder / "plan.json").write_text("[")
    with pytest.raises(UsageError, match=r"plan\.json' is damaged"):
        train(folder)


def test_a_full_disk_keeps_what_was_kept_before(tmp_path, monkeypatch):
    folder, calls, real = tmp_path / "kept", [], os.fsync

    def full(*args, **options):
        calls.append(args)
        if len(calls) == 4:  # the plan, two epochs, and now
            raise OSError(28, "No space left on device")
        real(*args, **options)

    whole, weights = uninterrupted()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        CascadeError, match=r"last\.ckpt': No space left on device\. Earlier epochs"
    ):
        train(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "plan.json"]
    found, again = train(folder)
    assert (found.epochs, found.resumed) == (whole.epochs, 2)
    same(weights, again)
