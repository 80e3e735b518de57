"""`lit-cascade fit`: train one stage."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_cascade.cli.lightning import CascadeCLI
from lit_cascade.cli.options import FitOptions
from lit_cascade.cli.output import resumable_output
from lit_cascade.data import has_split
from lit_cascade.lit import Training
from lit_cascade.live import count_parameters
from lit_cascade.models import checkpoint_pieces
from lit_cascade.report import Card, print_card
from lit_cascade.utilities.resume import UnfinishedRun
from lit_cascade.utilities.versions import library_versions


def run_models(cli: CascadeCLI, options: FitOptions) -> None:
    """Train a stage, evaluate it, and write its checkpoint and card."""
    model, name = cli.model, cli.model.name
    files = [f"{name}.safetensors", f"{name}.md"]
    output = resumable_output("fit", options, files, lambda folder: _unfinished(folder, name))
    unfinished = _unfinished(output.folder, name)
    recipe = _recipe(cli, options)
    training = cli.trainer.train(
        model, cli.datamodule, options.patience, options.stop_on, unfinished.folder, recipe
    )
    cli.trainer.limit_val_batches = 1.0
    card = _card(cli, training)
    if card is None:
        return
    print_card(card, training.resumed)
    output.summarise(card.summary | {"resumed": training.resumed})
    classes = card.classes or model.class_names
    output.add(files[0], checkpoint_pieces(model.network, name, classes))
    output.add(files[1], card.as_markdown())
    output.write()
    unfinished.remove()


def _unfinished(folder: Path, name: str) -> UnfinishedRun:
    return UnfinishedRun(folder / f"{name}.training")


def _card(cli: CascadeCLI, training: Training) -> Card | None:
    """Evaluate the trained stage; None on the processes that do not write."""
    model, datamodule = cli.model, cli.datamodule
    held_out = [s for s in ("calibration", "validation", "test") if has_split(datamodule, s)]
    splits, metrics = {}, {}
    evaluation = None
    for split in held_out or ["train"]:  # the card names the split, should it be this one
        evaluation = cli.trainer.evaluate(model, datamodule, split)
        if evaluation is not None:
            splits[split] = (evaluation.accuracy, evaluation.n)
            metrics[split] = evaluation.metrics
    if evaluation is None:
        return None
    return Card(
        name=model.name,
        data=evaluation.data["name"],
        classes=evaluation.classes,
        splits=splits,
        metrics=metrics,
        epochs=training.epochs,
        best=None if training.best is None else asdict(training.best),
        flops=evaluation.flops,
        parameters=count_parameters(model.network),
        recipe=_recipe(cli, cli.options),
        command=shlex.join(["lit-cascade", *sys.argv[1:]]),
        versions=library_versions(),
    )


def _recipe(cli: CascadeCLI, options: FitOptions) -> dict[str, Any]:
    """The parts of the configuration that determine the training."""
    config = cli.config_dict(skip_none=True)
    recipe: dict[str, Any] = {
        key: config[key] for key in ("seed_everything", "model", "data") if key in config
    }
    trainer: tuple[str, ...] = (
        "max_epochs",
        "max_steps",
        "precision",
        "accumulate_grad_batches",
        "gradient_clip_val",
        "devices",
        "deterministic",
    )
    if options.patience is not None:
        recipe |= {"patience": options.patience, "stop_on": options.stop_on}
        trainer = (*trainer, "check_val_every_n_epoch")
    recipe["trainer"] = {key: config["trainer"][key] for key in trainer if key in config["trainer"]}
    return recipe
