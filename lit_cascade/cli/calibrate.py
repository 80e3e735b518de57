"""`lit-cascade calibrate`: temperatures, and whether they help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lit_cascade.analysis import (
    CalibrationPlan,
    calibrate_record,
    compare_cascades,
    fit_heads,
    fitted_on,
)
from lit_cascade.cli.options import CalibrateOptions
from lit_cascade.cli.output import Output
from lit_cascade.core import Policy
from lit_cascade.errors import UsageError, check_name
from lit_cascade.records import Record, check_alike, resolve_cost
from lit_cascade.report import (
    Calibrated,
    calibration_summary,
    data_notes,
    draw_calibration,
    fit_summary,
    head_summary,
    print_calibration,
    print_heads,
    recommendation,
    verdict_summary,
)

if TYPE_CHECKING:
    from lit_cascade.cli.lightning import CascadeCLI


def run_files(options: CalibrateOptions) -> None:
    """Fit to records."""
    output = _output(options)
    records = [Record.load(path) for path in options.records or []]
    check_alike(records)
    _report(records, options, output)


def run_models(cli: CascadeCLI, options: CalibrateOptions) -> None:
    """Record the calibration split, then fit to the records."""
    from lit_cascade.lit import not_reported

    output = _output(options)
    _stages(options, cli.model.names)
    check = not_reported(cli.datamodule, options.split, allowed=options.allow_overlap)
    records = cli.trainer.record(cli.model, cli.datamodule, options.split, check)
    if records is not None:
        _report(records, options, output)


def _output(options: CalibrateOptions) -> Output:
    """Check the options and the folder before any work."""
    if options.learn_score and options.policy.combine == "most_confident":
        raise UsageError(
            "--learn_score: policy.combine is most_confident, which compares scores of stages, "
            "and a learned score estimates the gain of deferring; expected later or average."
        )
    return Output("calibrate", options, ["calibration.yaml", "calibrate.png", "summary.json"])


def _stages(options: CalibrateOptions, names: Sequence[str]) -> list[str]:
    """The stages to calibrate: those of the options, or all but the last.

    Raises:
        UsageError: there is no such stage.
    """
    return [check_name(name, names, "--stages") for name in options.stages or names[:-1]]


def _report(records: Sequence[Record], options: CalibrateOptions, output: Output) -> None:
    """Fit, print what the calibration does and whether it helps, and write it as an overlay."""
    records, options = resolve_cost(records, options)
    data, names, policy = records[0].data, [record.name for record in records], options.policy
    plan = CalibrationPlan.of(len(records[0]), options.share, options.seed)
    chosen = _stages(options, names)
    fitted = {
        record.name: calibrate_record(record, options.method, plan)
        for record in records
        if record.name in chosen
    }
    comparison = None
    if options.method != "none":
        rule = Policy.from_options(replace(policy, thresholds=None), names)
        comparison = compare_cascades(records, rule, fitted, plan, options.method, options.cost)
    result = Calibrated(records, fitted, plan, options.method, comparison, options.cost)
    notes = data_notes(data)
    if policy.thresholds is not None or policy.floors is not None:
        notes.append(
            "The thresholds of this config were chosen at another calibration; the overlay drops "
            "them: choose again."
        )
    where = f"{data.get('name', 'records')}, split {data.get('split', 'unknown')!r}"
    print_calibration(result, where, notes)
    overlay = _overlay(result, options)
    if options.learn_score:
        overlay = _with_learned_score(overlay, result, options)
    elif "heads" in (policy.evidence or {}):
        overlay["evidence"]["heads"] = (policy.evidence or {})["heads"]
    output.add_yaml(
        "calibration.yaml",
        {"policy": overlay},
        f"{recommendation(result)}\n"
        "Fitted by lit-cascade calibrate. Give it after the config of the cascade:\n"
        "  lit-cascade validate --config PAIR.yaml --config calibration.yaml\n"
        "It removes thresholds, which no longer hold at another calibration.",
    )
    output.add("calibrate.png", draw_calibration(result))
    output.add_json("summary.json", calibration_summary(result) | {"notes": notes})
    output.write()


def _overlay(result: Calibrated, options: CalibrateOptions) -> dict[str, Any]:
    """The calibration as options of a policy, with evidence of what it was fitted on."""
    policy, old = options.policy, options.policy.evidence or {}
    names = [record.name for record in result.records]
    temperatures = dict(zip(names, policy.temperatures_of(names), strict=True))
    others = [name for name, t in temperatures.items() if t != 1 and name not in result.fitted]
    temperatures |= {name: stage.temperature for name, stage in result.fitted.items()}
    evidence: dict[str, Any] = {"calibration": verdict_summary(result)}
    if others and "temperatures" in old:
        evidence["earlier temperatures"] = old["temperatures"]
    if result.method == "temperature":
        fits = {name: fit_summary(stage) for name, stage in result.fitted.items()}
        evidence["temperatures"] = fitted_on(result.records[0], result.plan.fitted) | {"fits": fits}
    if policy.temperatures is None:
        temperatures = {name: t for name, t in temperatures.items() if t != 1}
    return {
        "temperatures": temperatures or None,
        "thresholds": None,
        "floors": None,
        "evidence": evidence,
    }


def _with_learned_score(
    overlay: dict[str, Any], result: Calibrated, options: CalibrateOptions
) -> dict[str, Any]:
    """Fit a learned score, print it, and add it to the overlay with its evidence.

    Raises:
        CascadeError: a record without logits, or too few samples to learn from.
    """
    records, rows = result.records, result.plan.fitted
    temperatures = overlay["temperatures"]
    plain = replace(options.policy, score="max_softmax", thresholds=None, temperatures=temperatures)
    rule = Policy.from_options(plain, [record.name for record in records])
    fitted = fit_heads(records, rule, rows)
    print_heads(fitted)
    fits = {"fits": {name: head_summary(head) for name, head in fitted.items()}}
    return overlay | {
        "score": "learned",
        "heads": {name: head.head.numbers for name, head in fitted.items()},
        "evidence": overlay["evidence"] | {"heads": fitted_on(records[0], rows) | fits},
    }
