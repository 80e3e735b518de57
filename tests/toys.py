"""Small data and models that commands can be pointed at by class path."""

from __future__ import annotations

import os

import torch
from lightning.pytorch import Callback, LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

CLASSES = ("cat", "dog", "owl")


class Points(Dataset):
    """N points in the plane in three classes; the same for the same seed."""

    source = "points"
    classes = CLASSES

    def __init__(self, n: int = 21, first: int = 0):
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(1000, 2, generator=generator)[first : first + n]
        self.y = torch.randint(0, 3, (1000,), generator=generator)[first : first + n]
        self.ids = range(first, first + n)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, position):
        return self.x[position], self.y[position]


class Named(Points):
    """Points with strings as ids, in an order of their own."""

    def __init__(self, n: int = 21):
        super().__init__(n)
        self.ids = [f"image-{(8 * i) % n:03d}.png" for i in range(n)]


class Dicts(Points):
    """Points as a dict, as text data comes."""

    def __getitem__(self, position):
        return {"x": self.x[position], "labels": self.y[position]}


class SharedPoints(LightningDataModule):
    """Calibration and validation overlap by five points of one set without a source."""

    def __init__(self):
        super().__init__()
        self.points = Points(60)
        self.points.__dict__["source"] = None

    def calibration_dataloader(self):
        return DataLoader(Subset(self.points, range(30)), batch_size=8)

    def val_dataloader(self):
        return DataLoader(Subset(self.points, range(25, 60)), batch_size=8)


class Net(nn.Module):
    """A perceptron whose weights depend on its seed alone."""

    def __init__(self, width: int = 4, seed: int = 0, classes: int = 3):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        return self.layers(x)


class BadNet(Net):
    """Overflows on points to the right of 1."""

    def forward(self, x):
        return super().forward(x).where(x[:, :1] < 1, torch.nan)


class Sorted(Points):
    """Those furthest from the origin first."""

    def __init__(self, n: int = 21, first: int = 0):
        super().__init__(n, first)
        order = self.x.norm(dim=1).argsort(descending=True)
        self.x, self.y, self.ids = self.x[order], self.y[order], first + order


class Noisy(Points):
    """Points that are never the same twice, as augmentation makes them."""

    def __getitem__(self, position):
        import random

        import numpy as np

        noise = torch.tensor([random.gauss(0, 0.1), np.random.normal(0, 0.1)])  # noqa: NPY002
        return self.x[position] + noise + 0.1 * torch.randn(2), self.y[position]


class BadPoint(Points):
    """One that cannot be read."""

    def __getitem__(self, position):
        if position == 5:
            raise ValueError("bad point")
        return super().__getitem__(position)


class Steep(Net):
    """Surer the further a point lies from the origin."""

    def forward(self, x):
        return super().forward(x) * x.norm(dim=1, keepdim=True) ** 3


class Dying(Net):
    """Ends one of several processes, as the kernel does where memory is short.

    Only where the folder DYING exists, in which each process of such a network leaves its number.

    Args:
        rank: of the one that ends.
        after: so many batches.
        linger: seconds that the others take for each further batch.
    """

    def __init__(self, rank: int = 1, after: int = 3, linger: float = 0.0):
        super().__init__()
        self.rank, self.after, self.linger = str(rank), after, linger

    def forward(self, x):
        import os
        import signal
        import time
        from pathlib import Path

        folder = Path(os.environ.get("DYING", "none"))
        if folder.is_dir():
            (folder / str(os.getpid())).touch()
            self.after -= 1
            if self.after < 0 and os.environ.get("LOCAL_RANK") == self.rank:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.linger if self.after < 0 else 0)
        return super().forward(x)


class Waiting(Net):
    """Never answers where WAITING is set, so that its process can be killed at work."""

    def forward(self, x):
        import os
        import time

        while os.environ.get("WAITING"):
            time.sleep(0.1)
        return super().forward(x)


class Huge(Net):
    """Logits that half precision cannot hold."""

    def forward(self, x):
        return super().forward(x) * 1e6


class Counted(Net):
    """Counts how many of its kind are in memory, and the most there have been."""

    alive = most = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self):
        Counted.alive -= 1


class StopsAfterTwoEpochs(Callback):
    """Interrupts when the third epoch of a training begins."""

    def on_train_epoch_start(self, trainer, *_):
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt


class EndsAfterTwoEpochs(Callback):
    """Ends the process without a word when the third epoch of a training begins."""

    def on_train_epoch_start(self, trainer, *_):
        if trainer.current_epoch == 2:
            os._exit(9)
