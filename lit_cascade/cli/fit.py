"""`lit-cascade fit`: train one stage."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lit_cascade.cli.options import FitOptions
from lit_cascade.cli.parsing import dispatch

if TYPE_CHECKING:
    from lit_cascade.lit import Training
    from lit_cascade.report import Card

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    command = shlex.join(["lit-cascade", "fit", *argv])
    dispatch("fit", argv, FitOptions, lambda: _run(command))


def _run(command: str) -> None:
    from lit_cascade.cli.lightning import run_command
    from lit_cascade.lit import LitClassifier

    def work(cli: Any, model: Any, datamodule: Any) -> None:
        _fit(cli, model, datamodule, command)

    run_command("fit", LitClassifier, FitOptions, work)


def _fit(cli: Any, model: Any, datamodule: Any, command: str) -> None:
    from lit_cascade.cli.output import Output, folder_of
    from lit_cascade.lit import without_workers
    from lit_cascade.models import checkpoint_bytes
    from lit_cascade.report import print_card
    from lit_cascade.utilities.files import main_process, sweep
    from lit_cascade.utilities.resume import Unfinished

    name, options = model.name, cli.options
    files = [f"{name}.safetensors", f"{name}.md"]
    folder = folder_of("fit", options.out)
    unfinished = Unfinished(folder / f"{name}.training")
    # results beside an unfinished training are its own, of a run that was killed at its very end
    output = Output("fit", str(folder), files, overwrite=options.overwrite or bool(unfinished))
    if main_process():
        sweep(folder, files)
        if options.overwrite:
            unfinished.remove()
        if options.out is None:
            sys.stderr.write(
                f"Training is kept in {folder}: with --out {folder} it goes on there.\n"
            )
    recipe = _recipe(cli)
    # fewer workers are what helps where one was killed
    plan = recipe | {"data": without_workers(recipe["data"])} if "data" in recipe else recipe
    trained = cli.trainer.train(
        model, datamodule, options.patience, options.stop_on, unfinished.folder, plan
    )
    cli.trainer.limit_val_batches = 1.0
    card = _card(cli, model, datamodule, trained, command)
    if card is None:
        return
    print_card(card, trained.resumed)
    classes = card.classes or model.class_names
    output.add(files[0], checkpoint_bytes(model.network, name, classes))
    output.add(files[1], card.as_markdown())
    output.write()
    unfinished.remove()


def _card(cli: Any, model: Any, datamodule: Any, trained: Training, command: str) -> Card | None:
    """Judge what was trained; None on the processes that do not write."""
    from lit_cascade.data import has_split
    from lit_cascade.live import count_parameters
    from lit_cascade.report import Card
    from lit_cascade.utilities.versions import library_versions

    held_out = [s for s in ("calibration", "validation", "test") if has_split(datamodule, s)]
    splits, metrics = {}, {}
    judged = None
    for split in held_out or ["train"]:  # better the training data, named as such, than nothing
        judged = cli.trainer.evaluate(model, datamodule, split)
        if judged is not None:
            splits[split] = (judged.accuracy, judged.n)
            metrics[split] = judged.metrics
    if judged is None:
        return None
    return Card(
        name=model.name,
        data=judged.data["name"],
        classes=judged.classes,
        splits=splits,
        metrics=metrics,
        epochs=trained.epochs,
        best=None if trained.best is None else asdict(trained.best),
        flops=judged.flops,
        parameters=count_parameters(model.network),
        recipe=_recipe(cli),
        command=command,
        versions=library_versions(),
    )


def _recipe(cli: Any) -> dict[str, Any]:
    """The parts of the configuration that decide what was trained."""
    import yaml

    config = yaml.safe_load(cli.parser.dump(cli.config, skip_none=True))["fit"]
    recipe = {key: config[key] for key in ("seed_everything", "model", "data") if key in config}
    trainer: tuple[str, ...] = (
        "max_epochs",
        "max_steps",
        "precision",
        "accumulate_grad_batches",
        "gradient_clip_val",
        "devices",
        "deterministic",
    )
    if cli.options.patience is not None:
        recipe |= {"patience": cli.options.patience, "stop_on": cli.options.stop_on}
        trainer = (*trainer, "check_val_every_n_epoch")
    recipe["trainer"] = {key: config["trainer"][key] for key in trainer if key in config["trainer"]}
    return recipe
