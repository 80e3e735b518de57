"""Networks and data to train, whose course is known beforehand."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.utils.data import Dataset

from lit_cascade import Record
from tests.lit.cascades import trainer as quiet_trainer
from tests.toys import CLASSES, Net

WORDS = {"cat": "mew purr", "dog": "bark", "owl": "hoot hoot hoot hoot"}


class Letters:
    """Texts as the numbers of their letters, of which a batch is filled up."""

    key = "letters"

    def __call__(self, text):
        return {"letters": torch.tensor([1 + ord(letter) % 31 for letter in text])}

    def collate(self, views):
        letters = nn.utils.rnn.pad_sequence([one["letters"] for one in views], batch_first=True)
        return {"letters": letters, "mask": letters > 0}


class Reader(nn.Module):
    """The mean of embedded letters, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.preprocessing = Letters()
        self.table = nn.Embedding(32, 8)
        self.head = nn.Linear(8, 3)
        self.shapes = []

    def forward(self, letters, mask):
        self.shapes.append(tuple(letters.shape))
        mean = (self.table(letters) * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return self.head(mean)


class Texts(Dataset):
    """Texts of three classes, some longer than others."""

    source = "texts"
    classes = CLASSES
    metric = "matthews"

    def __init__(self, n: int = 30):
        self.names = [CLASSES[i % 3] for i in range(n)]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, position):
        name = self.names[position]
        return f"{WORDS[name]} {'x' * (position % 4)}", CLASSES.index(name)


class Countdown(Dataset):
    """Samples that hold their own position and label."""

    classes = CLASSES

    def __init__(self, n: int = 10):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, position):
        label = position % 3
        return torch.tensor([float(position), float(label)]), label


class Scripted(nn.Module):
    """Is right on as many of its samples as a script says for the number of steps it was trained.

    Args:
        script: how many of the first samples it is right on, after 0, 1, 2, ... steps.
    """

    def __init__(self, script=(0, 5, 9, 7, 9, 6)):
        super().__init__()
        self.script = script
        self.layer = nn.Linear(2, 3)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.steps += 1
        right = x[:, 0] < self.script[int(self.steps)]
        said = one_hot(torch.where(right, x[:, 1], (x[:, 1] + 1) % 3).long(), 3)
        return said + 0 * self.layer(x)


class Noting(Net):
    """Keeps the points that it is trained on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.extend(x[:, 0].tolist())
        return super().forward(x)


def trainer(epochs=2, **options):
    """A Trainer without output."""
    return quiet_trainer(max_epochs=epochs, **options)


def taught(points, **changes):
    """A record of a teacher who says the position of each sample, its ids in another order."""
    ids = points.ids if isinstance(points.ids, list) else list(points.ids)
    said = torch.tensor([[float(i), 0.0, -float(i)] for i in range(len(ids))])
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(3))
    settings = {
        "logits": said[order],
        "labels": points.y[order],
        "ids": [ids[i] for i in order.tolist()],
        "classes": CLASSES,
        "flops": 1.0,
        "data": {"name": "points", "split": "train", "source": "points"},
    }
    return Record.from_arrays("big", **(settings | changes))


def saved(record, folder):
    record.save(folder / "big.safetensors")
    return str(folder / "big.safetensors")
