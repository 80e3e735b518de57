"""Stock Trainers on one of several processes.

python -m tests.lit.stock_work COUNT FOLDER SIZE...
"""

import json
import logging
import sys
import warnings
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader, RandomSampler

from lit_cascade import LitCascade, LitClassifier
from lit_cascade.lit import ThresholdMetrics
from tests.toys import Net, Points


class Watching(EarlyStopping):
    """Reads the metric that it monitors on every process."""

    def on_validation_end(self, trainer, pl_module):
        assert self._validate_condition_metric(trainer.callback_metrics)


def trainer(count, *callbacks, **options):
    return Trainer(
        accelerator="cpu", devices=count, strategy="ddp" if count > 1 else "auto", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        callbacks=list(callbacks), **options,
    )  # fmt: skip


def cascade(policy=0.45):
    return LitCascade({"small": Net(3, 1), "large": Net(8, 2)}, policy)


def figures(count, size):
    """What stock Trainers log for as many samples, and what they predict."""
    data = Points(size)
    loader = DataLoader(data, batch_size=4)
    watching = Watching("val_accuracy", mode="max")
    runs = trainer(count, ThresholdMetrics([0.4, 0.6]), watching)
    (validated,) = runs.validate(cascade(), loader, verbose=False)
    shuffled = DataLoader(data, batch_size=4, sampler=RandomSampler(data))
    (again,) = runs.validate(cascade(), shuffled, verbose=False)
    (tested,) = runs.test(cascade(), loader, verbose=False)
    backwards = DataLoader(data, batch_size=4, sampler=range(size)[::-1])
    (reverse,) = runs.test(cascade(), backwards, verbose=False)
    (classified,) = runs.test(LitClassifier(Net(3, 1)), loader, verbose=False)
    # Lightning predicts only where each process has a sample
    predicted = runs.predict(cascade(), loader) if size >= count else []
    own = [batch["prediction"].tolist() for batch in predicted]
    return {
        "validated": validated, "again": again, "tested": tested, "reverse": reverse,
        "classified": classified, "predicted": own,
    }  # fmt: skip


if __name__ == "__main__":
    logging.disable(logging.INFO)
    warnings.simplefilter("error")
    for text in (
        ".*many workers.*",
        ".*devices=1.*",
        ".*treespec.*",
        ".*barrier.*",
        ".*shuffling.*",
    ):
        warnings.filterwarnings("ignore", text)
    folder = Path(sys.argv[2])
    for word in sys.argv[3:]:
        run = trainer(int(sys.argv[1]))
        found = figures(int(sys.argv[1]), int(word))
        (folder / f"{word}-{run.global_rank}.json").write_text(json.dumps(found))
