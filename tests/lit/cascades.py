"""Cascades of small networks, their data, and a Trainer without output."""

from lit_cascade import (
    CascadeTrainer,
    LitCascade,
    Stage,
)
from lit_cascade.data import Datasets
from tests.toys import Net, Points


def trainer(**options):
    return CascadeTrainer(
        accelerator=options.pop("accelerator", "cpu"),
        logger=options.pop("logger", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


def cascade(stages=2, policy=None, net=Net):
    widths = {f"net{k}": Stage(net(4**k + 3, seed=k)) for k in range(stages)}
    return LitCascade(widths, policy)


def points(n=21, dataset=Points, **splits):
    return Datasets(validation=dataset(n), batch_size=4, name="points", **splits)
