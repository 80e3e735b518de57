"""`lit-cascade test`: a cascade, executed at given thresholds."""

from __future__ import annotations

from typing import Any

from lit_cascade.analysis import check_overlap, known_cost, official_metric
from lit_cascade.cli.lightning import CascadeCLI
from lit_cascade.cli.options import TestOptions
from lit_cascade.cli.output import Output
from lit_cascade.core import OperatingPoint, is_right, measure
from lit_cascade.report import (
    data_notes,
    fitting_notes,
    known_cost_lines,
    known_cost_summary,
    outcome_summary,
    print_execution,
)
from lit_cascade.utilities.versions import library_versions


def run_models(cli: CascadeCLI, options: TestOptions) -> None:
    """Execute the cascade on a split and report accuracy and cost."""
    model, policy = cli.model, cli.model.cascade.policy
    thresholds = policy.required_thresholds(model.names)
    output = Output("test", options, ["test.json"])

    done = cli.trainer.execute(model, cli.datamodule, options.split, cli.check, options.gather)
    if done is None:
        return
    samples, names = done.samples, model.names
    labels: Any = samples.labels  # `execute` refuses a split without
    notes = check_overlap(
        options.policy.evidence, samples, done.data, allowed=options.allow_overlap
    )
    notes += data_notes(done.data) + fitting_notes(done.samples_per_forward)
    metric = official_metric([done.data], options.metric, samples.classes)
    value = None
    if metric is not None:
        value = measure(metric, done.prediction, labels, len(samples.classes))
    right = is_right(done.prediction, labels)
    result = OperatingPoint.measured(
        thresholds, done.stage, right, done.flops, done.flops_alone, value
    )
    where = f"{done.data['name']}, split {options.split!r}"
    spent = (done.flops.sum(dim=0) / result.n).tolist()
    executed = done.executed.sum(dim=0)
    per_sample = float(executed.sum()) / result.n
    known = known_cost(policy.evidence, names, result.answered)
    if known is not None and known.unit == "flops":
        known = None  # they were counted
    told = known_cost_lines(known)
    print_execution(result, names, spent, where, [*told, *notes], metric, per_sample)
    output.add_json(
        "test.json",
        {
            "n": result.n,
            **({} if metric is None else {"metric": metric}),
            "score": policy.score,
            "temperatures": dict(zip(names, policy.temperatures, strict=True)),
            **outcome_summary(result, names, metric=metric),
            **known_cost_summary(known),
            "executed_flops": dict(zip(names, executed.tolist(), strict=True)),
            "notes": notes,
            "provenance": {
                "data": dict(done.data),
                "fingerprint": samples.fingerprint,
                "versions": library_versions(),
            },
        },
    )
    output.write()
