"""`lit-cascade predict`: the answers of a cascade, sample by sample."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lit_cascade.analysis import known_cost
from lit_cascade.cli.configured import build_stage
from lit_cascade.cli.lightning import CascadeCLI
from lit_cascade.cli.options import PredictOptions
from lit_cascade.cli.output import resumable_output
from lit_cascade.data import STDIN, describe, has_split, split_loader
from lit_cascade.errors import UsageError
from lit_cascade.lit import Predictions, RayPools, unfinished_predictions
from lit_cascade.report import (
    data_notes,
    fitting_notes,
    known_cost_lines,
    known_cost_summary,
    print_answers,
)
from lit_cascade.utilities.versions import run_info


def run_models(cli: CascadeCLI, options: PredictOptions) -> None:
    """Classify inputs, or every sample of a split, and write the answers."""
    model, policy, data, configs = cli.model, cli.model.cascade.policy, cli.datamodule, cli.configs
    if options.inputs:
        data = _unlabelled(cli, options)
        if cli.progress is not None:
            cli.progress.doing = f"Predicting {data.name}"
        inputs = [str(Path(one).absolute()) for one in options.inputs]
        configs = replace(configs, data={**(configs.data or {}), "inputs": inputs})
    split = options.split
    if split is None:
        split = "predict" if has_split(data, "predict") else "validation"
    name = f"predictions.{options.format}"
    names = ["predictions.parquet", "predictions.csv", "predict.json"]
    output = resumable_output("predict", options, names, unfinished_predictions)

    def finish(answers: Predictions) -> None:
        notes = fitting_notes(answers.samples_per_forward)
        if options.inputs:
            notes += data_notes({"findings": describe(split_loader(data, split).dataset).findings})
        where = data.name if options.inputs else f"{data.name}, split {split!r}"
        known = known_cost(policy.evidence, model.names, answers.by_stage)
        print_answers(answers, model.names, where, known_cost_lines(known) + notes)
        thresholds = map(str, policy.required_thresholds())
        output.add_json(
            "predict.json",
            {
                "n": answers.n,
                "answered_by": dict(zip(model.names, answers.by_stage, strict=True)),
                **known_cost_summary(known),
                "left_out": [list(pair) for pair in answers.left_out],
                "score": policy.score,
                "thresholds": dict(zip(model.names, thresholds, strict=False)),
                "temperatures": dict(zip(model.names, policy.temperatures, strict=True)),
                "inputs": options.inputs,
                **({"answers": answers.rows} if answers.rows else {}),
                "split": split,
                "notes": notes,
                "provenance": run_info(),
            },
        )
        output.write(beside=[name])

    engine = None
    if options.engine == "ray":
        described = cli.config_dict()["model"]
        builds = {name: partial(build_stage, described, name) for name in model.names}
        engine = RayPools(options.ray, builds)
    cli.trainer.answer(
        model, data, output.folder, split, name, options.gather, configs, finish,
        top=options.top, text=options.text, engine=engine,
    )  # fmt: skip


def _unlabelled(cli: CascadeCLI, options: PredictOptions) -> Any:
    """Data module of the inputs, read as the config's data are.

    Raises:
        UsageError: inputs that do not fit these data, or another option.
    """
    inputs = options.inputs or []
    if options.split is not None:
        raise UsageError(
            f"--split: names a split of the config's data, and the inputs {inputs[0]!r}, ... take "
            "their place; leave one of them out."
        )
    if STDIN in inputs and cli.trainer.world_size > 1:
        raise UsageError("-: one process alone can read standard input; give a file.")
    kind = type(cli.datamodule).__name__
    if not hasattr(cli.datamodule, "unlabelled"):
        raise UsageError(
            f"{inputs[0]}: {kind} reads no files, and the config's data say how inputs are read; "
            "expected ImageData, TextData, GlueData, or a data module with a method `unlabelled`."
        )
    data = cli.datamodule.unlabelled(inputs)
    data.setup("predict")  # inputs that do not fit are reported before anything is written
    if cli.model.class_names is None:  # then only labelled data may name the classes
        with suppress(UsageError):
            data.class_names = cli.labelled_classes()
    return data
