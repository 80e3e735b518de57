"""`lit-cascade test`: a cascade, run for real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_cascade.cli.live_options import TestOptions
from lit_cascade.cli.parsing import dispatch

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("test", argv, TestOptions, _run_models)


def _run_models() -> None:
    from lit_cascade.cli.lightning import run_command
    from lit_cascade.lit import LitCascade

    run_command("test", LitCascade, TestOptions, _test)


def _test(cli: Any, model: Any, datamodule: Any) -> None:
    """Run the cascade on a split and report what it did."""
    from lit_cascade.analysis import check_overlap, official_metric, outcome
    from lit_cascade.cli.output import Output
    from lit_cascade.core import is_right, measure
    from lit_cascade.report import data_notes, fitting_notes, outcome_summary, print_execution
    from lit_cascade.utilities.versions import library_versions

    options: TestOptions = cli.options
    output = Output("test", options.out, ["test.json"], overwrite=options.overwrite)

    def check(ids: Any, data: Mapping[str, Any]) -> None:
        check_overlap(options.policy, ids, data, allowed=options.allow_overlap)
        official_metric([data], options.metric, model.class_names)

    done = cli.trainer.execute(model, datamodule, options.split, check=check, gather=options.gather)
    if done is None:
        return
    notes = check_overlap(
        options.policy,
        done.samples.ids,
        done.data,
        allowed=options.allow_overlap,
        fingerprint=done.samples.fingerprint,
    )
    notes += data_notes(done.data) + fitting_notes(done.fitting)
    right = is_right(done.prediction, done.samples.labels)
    classes = done.samples.classes
    metric = official_metric([done.data], options.metric, classes)
    value = None
    if metric is not None:
        value = measure(metric, done.prediction, done.samples.labels, len(classes))
    found = outcome(done.stage, right, done.flops, done.flops_alone, value)
    thresholds = model.cascade.policy.thresholds
    where = f"{done.data['name']}, split {options.split!r}"
    spent = (done.flops.sum(dim=0) / found.n).tolist()
    executed = done.executed.sum(dim=0)
    per_sample = float(executed.sum()) / found.n
    print_execution(found, model.names, thresholds, spent, where, notes, metric, per_sample)
    output.add_json(
        "test.json",
        {
            "n": found.n,
            **({} if metric is None else {"metric": metric}),
            "score": model.cascade.policy.score,
            "temperatures": dict(zip(model.names, model.cascade.policy.temperatures, strict=True)),
            **outcome_summary(found, model.names, thresholds, metric=metric),
            "executed_flops": dict(zip(model.names, executed.tolist(), strict=True)),
            "notes": notes,
            "provenance": {
                "data": dict(done.data),
                "fingerprint": done.samples.fingerprint,
                "versions": library_versions(),
            },
        },
    )
    output.write()
