"""`lit-cascade validate`: a cascade at every threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_cascade.cli.choosing_options import ValidateOptions
from lit_cascade.cli.parsing import dispatch

if TYPE_CHECKING:
    from lit_cascade.cli.output import Output
    from lit_cascade.records import Record

__all__ = ["main"]

_LOGGED = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
"""Thresholds whose metrics go to the Trainer's logger, if it has one."""


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("validate", argv, ValidateOptions, _run_models, _run_records)


def _output(options: ValidateOptions, stages: Sequence[str]) -> Output:
    from lit_cascade.cli.output import Output
    from lit_cascade.errors import check_file_name

    names = ["curve.csv", "curve_uncalibrated.csv", "curve.png", "summary.json"]
    if options.save_records:
        for stage in stages:
            check_file_name(stage, "records")
        names += [f"{stage}.safetensors" for stage in stages]
    return Output("validate", options.out, names, overwrite=options.overwrite)


def _run_records(options: ValidateOptions) -> None:
    from lit_cascade.records import Record

    records = [Record.load(path) for path in options.records or []]
    report(records, options, _output(options, [record.name for record in records]))


def _run_models() -> None:
    from lit_cascade.cli.lightning import run_command
    from lit_cascade.lit import LitCascade

    run_command("validate", LitCascade, ValidateOptions, _validate)


def _validate(cli: Any, model: Any, datamodule: Any) -> None:
    """Record the split, then judge the records."""
    from lit_cascade.analysis import check_overlap, official_metric
    from lit_cascade.core import score_named
    from lit_cascade.lit import ThresholdMetrics

    options: ValidateOptions = cli.options
    output = _output(options, model.names)
    score = score_named(options.policy.score)
    logged = [value for value in _LOGGED if score.low <= value <= score.high]
    if cli.trainer.loggers and logged:
        cli.trainer.add_callback(ThresholdMetrics(logged, options.metric))

    def check(ids: Any, data: Mapping[str, Any]) -> None:
        check_overlap(options.policy, ids, data, allowed=options.allow_overlap)
        official_metric([data], options.metric, model.class_names)

    records = cli.trainer.record(model, datamodule, options.split, check, cli.configs)
    if records is not None:
        report(records, options, output)


def report(records: Sequence[Record], options: ValidateOptions, output: Output) -> None:
    """Judge records, print, and write what was found."""
    from lit_cascade.analysis import check_overlap, cost_notes
    from lit_cascade.cli.output import curve_csv
    from lit_cascade.records import at_cost, check_alike
    from lit_cascade.report import (
        Validation,
        data_notes,
        draw_curve,
        model_notes,
        print_validation,
        validation_summary,
    )

    records, options = at_cost(records, options)
    check_alike(records)
    first = records[0]
    notes = check_overlap(
        options.policy,
        first.ids,
        first.data,
        allowed=options.allow_overlap,
        fingerprint=first.samples.fingerprint,
    )
    notes += data_notes(first.data)
    notes += model_notes([(record.name, record.model, len(record.classes)) for record in records])
    notes += cost_notes(records, options.cost)
    found = Validation.of(records, options.policy, options.cost, options.metric)
    print_validation(found, notes)
    output.add("curve.csv", curve_csv(found.curve, found.unit))
    if found.uncalibrated is not None:
        output.add("curve_uncalibrated.csv", curve_csv(found.uncalibrated, found.unit))
    output.add("curve.png", draw_curve(found))
    output.add_json("summary.json", validation_summary(found) | {"notes": notes})
    if options.save_records:
        for record in records:
            output.add(f"{record.name}.safetensors", record.to_bytes())
    output.write()
