"""`lit-cascade predict`: the answers of a cascade, sample by sample."""

from __future__ import annotations

from lit_cascade.cli.lightning import CascadeCLI
from lit_cascade.cli.options import PredictOptions
from lit_cascade.cli.output import resumable_output
from lit_cascade.data import has_split
from lit_cascade.lit import Predictions, unfinished_predictions
from lit_cascade.report import fitting_notes, print_answers
from lit_cascade.utilities.versions import run_info


def run_models(cli: CascadeCLI, options: PredictOptions) -> None:
    """Classify every sample of a split and write the answers."""
    model, policy = cli.model, cli.model.cascade.policy
    split = options.split
    if split is None:
        split = "predict" if has_split(cli.datamodule, "predict") else "validation"
    name = f"predictions.{options.format}"
    names = ["predictions.parquet", "predictions.csv", "predict.json"]
    output = resumable_output("predict", options, names, unfinished_predictions)

    def finish(answers: Predictions) -> None:
        notes = fitting_notes(answers.samples_per_forward)
        print_answers(answers, model.names, f"{cli.datamodule.name}, split {split!r}", notes)
        thresholds = map(str, policy.required_thresholds())
        output.add_json(
            "predict.json",
            {
                "n": answers.n,
                "answered_by": dict(zip(model.names, answers.by_stage, strict=True)),
                "left_out": [list(pair) for pair in answers.left_out],
                "score": policy.score,
                "thresholds": dict(zip(model.names, thresholds, strict=False)),
                "temperatures": dict(zip(model.names, policy.temperatures, strict=True)),
                "split": split,
                "notes": notes,
                "provenance": run_info(),
            },
        )
        output.write(beside=[name])

    cli.trainer.answer(
        model, cli.datamodule, output.folder, split, name, options.gather, cli.configs, finish
    )
