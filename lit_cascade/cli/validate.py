"""`lit-cascade validate`: a cascade at every threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_cascade.analysis import (
    MonthlySaving,
    check_calls,
    check_disagreements,
    check_overlap,
    cost_notes,
    disagreements,
    outcomes_of,
    score_notes,
)
from lit_cascade.cli.options import CardOptions, ValidateOptions
from lit_cascade.cli.output import Output
from lit_cascade.core import Policy, operating_points, score_named
from lit_cascade.errors import UsageError, check_file_name
from lit_cascade.records import Record, check_alike, priced
from lit_cascade.report import (
    SAMPLES,
    Validation,
    curve_csv,
    data_notes,
    draw_curve,
    model_notes,
    print_validation,
    saving_line,
    saving_summary,
    validation_summary,
)

if TYPE_CHECKING:
    from lit_cascade.cli.lightning import CascadeCLI

_LOGGED = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
"""Thresholds whose metrics go to the Trainer's logger, if it has one."""


def run_files(options: ValidateOptions) -> None:
    """Evaluate records."""
    if options.save_samples:
        raise UsageError("save_samples: records hold no inputs; run the models, with --config.")
    records = [Record.load(path) for path in options.records or []]
    _report(records, options, _output(options, [record.name for record in records]))


def run_models(cli: CascadeCLI, options: ValidateOptions) -> None:
    """Record the split, then evaluate the records."""
    from lit_cascade.lit import ThresholdMetrics

    if options.save_samples < 0:
        raise UsageError(f"save_samples: expected at least 0, got {options.save_samples}.")
    if options.save_samples:
        check_disagreements(options.policy.score)
    output = _output(options, cli.model.names)
    score = score_named(options.policy.score)
    logged = [value for value in _LOGGED if score.low <= value <= score.high]
    if cli.trainer.loggers and logged:
        cli.trainer.callbacks.append(ThresholdMetrics(logged, options.metric))
    records = cli.trainer.record(cli.model, cli.datamodule, options.split, cli.check, cli.configs)
    if records is None:
        return
    if options.save_samples:
        from lit_cascade.data import previews

        rule = Policy.of(options.policy, [record.name for record in records])
        ends = rule.temperatures[0], rule.temperatures[-1]
        rows = disagreements(records, rule.score, ends).rows[: options.save_samples]
        ids = records[0].ids[rows.tolist()]
        output.add_json(SAMPLES, previews(cli.datamodule, options.split, ids.tolist()))
    _report(records, options, output)


def _output(options: ValidateOptions, stages: Sequence[str]) -> Output:
    check_calls(options.calls_per_month)
    names = ["curve.csv", "curve_uncalibrated.csv", "curve.png", "summary.json"]
    names += [SAMPLES] if options.save_samples else []
    if options.save_records:
        for stage in stages:
            check_file_name(stage, "records")
        names += [f"{stage}.safetensors" for stage in stages]
    return Output("validate", options, names)


def _report(records: Sequence[Record], options: ValidateOptions, output: Output) -> None:
    """Evaluate records, and print and write the results."""
    validation, notes = evaluated(records, options)
    saving = _saving(validation, options.calls_per_month)
    told = [] if saving is None else [saving_line(saving, _seen(validation))]
    print_validation(validation, [*told, *notes])
    output.add("curve.csv", curve_csv(validation.curve))
    if validation.uncalibrated is not None:
        output.add("curve_uncalibrated.csv", curve_csv(validation.uncalibrated))
    output.add("curve.png", draw_curve(validation))
    output.add_json(
        "summary.json", validation_summary(validation) | saving_summary(saving) | {"notes": notes}
    )
    if options.save_records:
        for record in validation.records:
            output.add(f"{record.name}.safetensors", record.pieces())
    output.write()


def evaluated(
    records: Sequence[Record], options: ValidateOptions | CardOptions
) -> tuple[Validation, list[str]]:
    """Evaluate records by the options of a command, with notes on data, models and costs.

    Raises:
        UsageError: a unit that the records have not, or a metric that does not fit.
        CascadeError: records of different samples, or of samples that the policy was fitted on.
    """
    records, unit = priced(records, options.cost)
    check_alike(records)
    first = records[0]
    notes = check_overlap(
        options.policy.evidence, first.samples, first.data, records, allowed=options.allow_overlap
    )
    notes += data_notes(first.data)
    notes += model_notes([(record.name, record.model, len(record.classes)) for record in records])
    notes += cost_notes(records, unit) + score_notes(records, options.policy)
    return Validation.of(records, options.policy, unit, options.metric), notes


def _saving(result: Validation, calls: float | None) -> MonthlySaving | None:
    """The saving at the given thresholds, or else at those that keep the last stage's accuracy."""
    point = result.policy or operating_points(result.curve)["same_accuracy"]
    if calls is None or point is None:
        return None
    outcomes = outcomes_of(result.records, result.rule, result.unit)
    return MonthlySaving.of(outcomes, point.thresholds, calls)


def _seen(result: Validation) -> str:
    if result.policy is not None:
        return "at the thresholds given"
    return "at the threshold that keeps the accuracy of the last stage, which was chosen on them"
