"""`lit-cascade calibrate`: temperatures, and whether they help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_cascade.cli.choosing_options import CalibrateOptions
from lit_cascade.cli.parsing import dispatch

if TYPE_CHECKING:
    from lit_cascade.analysis import StageCalibration
    from lit_cascade.cli.output import Output
    from lit_cascade.records import Record
    from lit_cascade.report import Calibrated

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("calibrate", argv, CalibrateOptions, _run_models, _run_records)


def _output(options: CalibrateOptions) -> Output:
    from lit_cascade.cli.learn import check_learnable
    from lit_cascade.cli.output import Output

    check_learnable(options.policy, learn=options.learn_score)
    names = ["calibration.yaml", "calibrate.png", "summary.json"]
    return Output("calibrate", options.out, names, overwrite=options.overwrite)


def _run_records(options: CalibrateOptions) -> None:
    from lit_cascade.analysis import Plan, calibrate_record
    from lit_cascade.errors import check_name
    from lit_cascade.records import Record, check_alike

    output = _output(options)
    records = [Record.load(path) for path in options.records or []]
    check_alike(records)
    names = [record.name for record in records]
    chosen = [check_name(name, names, "--stages") for name in options.stages or names[:-1]]
    plan = Plan.of(len(records[0]), options.share, options.seed)
    fitted = {
        record.name: calibrate_record(record, options.method, plan)
        for record in records
        if record.name in chosen
    }
    report(fitted, records, options, output)


def _run_models() -> None:
    from lit_cascade.cli.lightning import run_command
    from lit_cascade.lit import LitCascade

    run_command("calibrate", LitCascade, CalibrateOptions, _calibrate)


def _calibrate(cli: Any, model: Any, datamodule: Any) -> None:
    """Record the calibration split, then fit to the records."""
    from lit_cascade.lit import not_reported

    options: CalibrateOptions = cli.options
    output = _output(options)
    fitted, records = cli.trainer.calibrate(
        model,
        datamodule,
        options.split,
        options.stages,
        not_reported(datamodule, options.split, allowed=options.allow_overlap),
        options.method,
        options.share,
        options.seed,
    )
    if records is not None:
        report(fitted, records, options, output)


def report(
    fitted: Mapping[str, StageCalibration],
    records: Sequence[Record],
    options: CalibrateOptions,
    output: Output,
) -> None:
    """Print what the calibration does and whether it helps, and write it as an overlay."""
    from lit_cascade.analysis import Plan, compare_cascades
    from lit_cascade.cli.learn import with_learned_score
    from lit_cascade.core import rule_of
    from lit_cascade.records import at_cost
    from lit_cascade.report import (
        Calibrated,
        calibration_summary,
        data_notes,
        draw_calibration,
        print_calibration,
        recommendation,
    )

    records, options = at_cost(records, options)
    data, names = records[0].data, [record.name for record in records]
    plan = Plan.of(len(records[0]), options.share, options.seed)
    compared = None
    if options.method != "none":
        rule = rule_of(options.policy, names)
        compared = compare_cascades(records, rule, fitted, plan, options.method, options.cost)
    found = Calibrated(records, fitted, plan, options.method, compared, options.cost)
    notes = data_notes(data)
    if options.policy.thresholds is not None or options.policy.floors is not None:
        notes.append(
            "The thresholds of this config were chosen at another calibration; the overlay drops "
            "them: choose again."
        )
    where = f"{data.get('name', 'records')}, split {data.get('split', 'unknown')!r}"
    print_calibration(found, where, notes)
    policy = with_learned_score(
        _overlay(found, options), records, options.policy, learn=options.learn_score,
        rows=plan.fitted,
    )  # fmt: skip
    output.add_yaml(
        "calibration.yaml",
        {"policy": policy},
        f"{recommendation(found)}\n"
        "Fitted by lit-cascade calibrate. Give it after the config of the cascade:\n"
        "  lit-cascade validate --config PAIR.yaml --config calibration.yaml\n"
        "Thresholds chosen at another calibration no longer hold, so it takes them away.",
    )
    output.add("calibrate.png", draw_calibration(found))
    output.add_json("summary.json", calibration_summary(found) | {"notes": notes})
    output.write()


def _overlay(found: Calibrated, options: CalibrateOptions) -> dict[str, Any]:
    """The calibration as options of a policy, with what it was fitted on."""
    from lit_cascade.analysis import fitted_on
    from lit_cascade.report import fit_summary, verdict_summary

    given, old = options.policy, options.policy.evidence or {}
    names = [record.name for record in found.records]
    temperatures = dict(zip(names, given.temperatures_of(names), strict=True))
    others = [name for name, t in temperatures.items() if t != 1 and name not in found.fitted]
    temperatures |= {name: stage.temperature for name, stage in found.fitted.items()}
    evidence: dict[str, Any] = {"calibration": verdict_summary(found)}
    if others and "temperatures" in old:
        evidence["earlier temperatures"] = old["temperatures"]
    if found.method == "temperature":
        fits = {name: fit_summary(stage) for name, stage in found.fitted.items()}
        evidence["temperatures"] = fitted_on(found.records[0], found.plan.fitted) | {"fits": fits}
    if given.temperatures is None:
        temperatures = {name: t for name, t in temperatures.items() if t != 1}
    return {
        "temperatures": temperatures or None,
        "thresholds": None,
        "floors": None,
        "evidence": evidence,
    }
