"""`lit-cascade predict`: the answers of a cascade, sample by sample."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lit_cascade.cli.live_options import PredictOptions
from lit_cascade.cli.parsing import dispatch

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("predict", argv, PredictOptions, _run_models)


def _run_models() -> None:
    from lit_cascade.cli.lightning import run_command
    from lit_cascade.lit import LitCascade

    def work(cli: Any, model: Any, datamodule: Any) -> None:
        _predict(cli.trainer, model, datamodule, cli.options, cli.configs)

    run_command("predict", LitCascade, PredictOptions, work)


def _predict(
    trainer: Any, model: Any, datamodule: Any, options: PredictOptions, configs: Any
) -> None:
    from lit_cascade.cli.output import Output, folder_of
    from lit_cascade.data import has_split
    from lit_cascade.lit import Answers, unfinished
    from lit_cascade.report import fitting_notes, print_answers
    from lit_cascade.utilities.files import main_process, sweep
    from lit_cascade.utilities.versions import run_info

    split = options.split
    if split is None:
        split = "predict" if has_split(datamodule, "predict") else "validation"
    name = f"predictions.{options.format}"
    # files beside an interrupted run are its own: it may replace them
    replace = options.overwrite or bool(unfinished(folder_of("predict", options.out)))
    names = ["predictions.parquet", "predictions.csv", "predict.json"]
    output = Output("predict", options.out, names, overwrite=replace)
    if main_process():
        sweep(output.folder, names)
        if options.overwrite:
            unfinished(output.folder).remove()
        if options.out is None:
            where = output.folder
            sys.stderr.write(f"Answers are kept in {where}: with --out {where} it goes on there.\n")

    def finish(done: Answers) -> None:
        notes = fitting_notes(done.fitting)
        print_answers(done, model.names, f"{datamodule.name}, split {split!r}", notes)
        policy = model.cascade.policy
        output.add_json(
            "predict.json",
            {
                "n": done.n,
                "answered_by": dict(zip(model.names, done.by_stage, strict=True)),
                "left_out": [list(pair) for pair in done.left_out],
                "score": policy.score,
                "thresholds": dict(
                    zip(model.names, (str(value) for value in policy.thresholds), strict=False)
                ),
                "temperatures": dict(zip(model.names, policy.temperatures, strict=True)),
                "split": split,
                "notes": notes,
                "provenance": run_info(),
            },
        )
        output.write(beside=[name])

    folder, gather = output.folder, options.gather
    trainer.answer(model, datamodule, folder, split, name, gather, configs, finish)
