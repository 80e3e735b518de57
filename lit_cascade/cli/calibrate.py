"""`lit-cascade calibrate`: temperatures, and whether they help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lit_cascade.analysis import Calibration, calibrate, check_fitted_score
from lit_cascade.cli.options import CalibrateOptions
from lit_cascade.cli.output import Output
from lit_cascade.errors import check_name
from lit_cascade.records import Record
from lit_cascade.report import (
    calibration_summary,
    data_notes,
    draw_calibration,
    print_calibration,
    print_fitted_scores,
)

if TYPE_CHECKING:
    from lit_cascade.cli.lightning import CascadeCLI


def run_files(options: CalibrateOptions) -> None:
    """Fit to records."""
    output = _output(options)
    _report([Record.load(path) for path in options.records or []], options, output)


def run_models(cli: CascadeCLI, options: CalibrateOptions) -> None:
    """Record the calibration split, then fit to the records."""
    from lit_cascade.lit import not_reported

    output = _output(options)
    for name in options.stages or ():  # before any model runs
        check_name(name, cli.model.names, "stages")
    check = not_reported(cli.datamodule, options.split, allowed=options.allow_overlap)
    records = cli.trainer.record(cli.model, cli.datamodule, options.split, check)
    if records is not None:
        _report(records, options, output)


def _output(options: CalibrateOptions) -> Output:
    """Check the options and the folder before any work."""
    check_fitted_score(
        options.policy.combine,
        learn_score=options.learn_score,
        choose_norms=options.choose_norms,
    )
    return Output("calibrate", options, ["calibration.yaml", "calibrate.png", "summary.json"])


def _report(records: Sequence[Record], options: CalibrateOptions, output: Output) -> None:
    """Fit, print what the calibration does and whether it helps, and write it as an overlay."""
    result = calibrate(
        records,
        policy=options.policy,
        stages=options.stages,
        method=options.method,
        share=options.share,
        seed=options.seed,
        learn_score=options.learn_score,
        choose_norms=options.choose_norms,
        cost=options.cost,
    )
    data = records[0].data
    notes = data_notes(data)
    if options.policy.thresholds is not None or options.policy.floors is not None:
        notes.append(
            "The thresholds of this config were chosen at another calibration; the overlay drops "
            "them: choose again."
        )
    where = f"{data.get('name', 'records')}, split {data.get('split', 'unknown')!r}"
    print_calibration(result, where, notes)
    if result.heads or result.norms:
        print_fitted_scores(result)
    said = [result.recommendation] if result.fitted else []
    said += [result.learned_verdict] if result.learned_verdict else []
    output.add_yaml(
        "calibration.yaml",
        {"policy": _overlay(result)},
        f"{' '.join(said)}\n"
        "Fitted by lit-cascade calibrate. Give it after the config of the cascade:\n"
        "  lit-cascade validate --config PAIR.yaml --policy calibration.yaml\n"
        "It removes thresholds, which no longer hold at another calibration.",
    )
    output.add("calibrate.png", draw_calibration(result))
    output.add_json("summary.json", calibration_summary(result) | {"notes": notes})
    output.write()


def _overlay(result: Calibration) -> dict[str, Any]:
    """What the calibration changes in a config."""
    values = result.policy.to_dict()
    fitted = [part for part in ("heads", "norms") if getattr(result, part)]
    changed = ["temperatures", *(["score", *fitted] if fitted else []), "evidence"]
    return {"thresholds": None, "floors": None, **{name: values[name] for name in changed}}
