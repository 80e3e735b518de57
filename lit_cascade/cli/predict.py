"""`lit-cascade predict`: the answers of a cascade, sample by sample."""

from __future__ import annotations

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
    import shutil

    from lit_cascade.cli.output import Output
    from lit_cascade.data.splits import has_split
    from lit_cascade.files import main_process
    from lit_cascade.lit.predicting import PARTS
    from lit_cascade.provenance import run_info
    from lit_cascade.report.tables import print_answers

    split = options.split
    if split is None:
        split = "predict" if has_split(datamodule, "predict") else "validation"
    name = f"predictions.{options.format}"
    output = Output("predict", options.out, [name, "predict.json"], overwrite=options.overwrite)
    if options.overwrite and main_process():
        shutil.rmtree(output.folder / PARTS, ignore_errors=True)
    done = trainer.answer(model, datamodule, output.folder, split, name, options.gather, configs)
    if done is None:
        return
    print_answers(done, model.names, f"{datamodule.name}, split {split!r}")
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
            "provenance": run_info(),
        },
    )
    output.write(beside=[name])
