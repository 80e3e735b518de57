"""One of two processes that train together.

python -m tests.lit.training.together FOLDER, with the teacher's record in it; writes 0.pt or 1.pt.
"""

import os
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, RandomSampler

from lit_cascade import LitClassifier
from lit_cascade.data import Datasets
from lit_cascade.data.buckets import LengthBuckets
from lit_cascade.lit.training.teacher import Teacher
from tests.lit.training.learners import Noting, Reader, Texts, trainer
from tests.toys import Points

TWO = {"devices": 2, "strategy": "ddp"}


class Bucketed(Datasets):
    """Batches of texts of similar length, by a batch sampler that Lightning makes anew."""

    def train_dataloader(self):
        texts = self.dataset("train")
        lengths = [len(texts[i][0]) for i in range(len(texts))]
        return DataLoader(
            texts,
            batch_sampler=LengthBuckets(RandomSampler(texts), 5, drop_last=False, lengths=lengths),
        )


def train(folder):
    """Train as one of two processes, and write down what happened."""
    texts = LitClassifier(Reader, learning_rate=0.05)
    trainer(2, **TWO).train(texts, Bucketed(train=Texts(30)))
    model = LitClassifier(
        Noting, learning_rate=0.3, teacher=Teacher(str(folder / "big.safetensors"))
    )
    data = Datasets(train=Points(21), calibration=Points(9, first=30), batch_size=4)
    run = trainer(4, **TWO)
    found = run.train(model, data, patience=1, stop_on="calibration")
    loss = float(run.callback_metrics["train_loss"])
    judged = run.evaluate(model, data, "calibration")
    told = {
        "seen": model.network.seen,
        "epochs": found.epochs,
        "loss": loss,
        "best": found.best.score,
        "weights": [p.detach() for p in model.network.parameters()],
        "judged": judged and judged.accuracy,
        "shapes": texts.network.shapes,
    }
    torch.save(told, folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    train(Path(sys.argv[1]))
