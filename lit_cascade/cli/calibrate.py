"""`lit-cascade calibrate`: temperatures, fitted on the calibration split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_cascade.cli.options import CalibrateOptions
from lit_cascade.cli.parsing import dispatch

if TYPE_CHECKING:
    from lit_cascade.calibrations import StageCalibration
    from lit_cascade.cli.output import Output
    from lit_cascade.records import Record

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("calibrate", argv, CalibrateOptions, _run_models, _run_records)


def _output(options: CalibrateOptions) -> Output:
    from lit_cascade.cli.learn import check_learnable
    from lit_cascade.cli.output import Output

    check_learnable(options.policy, learn=options.learn_score)
    return Output("calibrate", options.out, ["calibration.yaml"], overwrite=options.overwrite)


def _run_records(options: CalibrateOptions) -> None:
    from lit_cascade.calibrations import calibrate_record
    from lit_cascade.errors import check_name
    from lit_cascade.records import Record, check_alike

    output = _output(options)
    records = [Record.load(path) for path in options.records or []]
    check_alike(records)
    names = [record.name for record in records]
    chosen = [check_name(name, names, "--stages") for name in options.stages or names[:-1]]
    report(
        {record.name: calibrate_record(record) for record in records if record.name in chosen},
        records,
        options,
        output,
    )


def _run_models() -> None:
    from lit_cascade.cli.lightning import CascadeCLI
    from lit_cascade.data.splits import shared_ids
    from lit_cascade.errors import CascadeError
    from lit_cascade.lit import LitCascade

    class CalibrateCLI(CascadeCLI):
        """Records the calibration split, then fits to the records."""

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            """The one command."""
            return {"calibrate": CascadeCLI.skip()}

        def calibrate(self, model: Any, datamodule: Any, **_: Any) -> None:
            """Run the command."""
            options: CalibrateOptions = self.options
            output = _output(options)

            def check(ids: Any, data: Mapping[str, Any]) -> None:
                shared = shared_ids(datamodule, options.split, "validation")
                if shared and not options.allow_overlap:
                    raise CascadeError(
                        f"{len(shared)} of the {len(ids)} samples of {data['name']}, split "
                        f"{options.split!r}, are also in the split 'validation' that is reported "
                        f"on (first id {shared[0]!r}). Use another split, or add --allow_overlap."
                    )

            fitted, records = self.trainer.calibrate(
                model, datamodule, options.split, options.stages, check
            )
            if records is None:
                return
            report(fitted, records, options, output)

    CalibrateCLI(LitCascade, CalibrateOptions)


def report(
    fitted: Mapping[str, StageCalibration],
    records: Sequence[Record],
    options: CalibrateOptions,
    output: Output,
) -> None:
    """Print temperatures and write them as an overlay."""
    from lit_cascade.cli.evidence import fitted_on
    from lit_cascade.cli.learn import with_learned_score
    from lit_cascade.report.notes import data_notes
    from lit_cascade.report.summary import calibration_summary
    from lit_cascade.report.tables import print_calibration

    data = records[0].data
    where = f"{data.get('name', 'records')}, split {data.get('split', 'unknown')!r}"
    notes = data_notes(data)
    if options.policy.thresholds is not None:
        notes.append(
            "The thresholds of this config were chosen at other temperatures; the overlay drops "
            "them: choose again."
        )
    print_calibration(fitted, where, notes)
    policy: dict[str, Any] = {
        "temperatures": {name: stage.fit.temperature for name, stage in fitted.items()},
        "thresholds": None,
        "evidence": {
            "temperatures": fitted_on(records[0]) | {"fits": calibration_summary(fitted)},
        },
    }
    policy = with_learned_score(policy, records, options.policy, learn=options.learn_score)
    output.add_yaml(
        "calibration.yaml",
        {"policy": policy},
        "Temperatures fitted by lit-cascade calibrate. Give it after the config of the cascade:\n"
        "  lit-cascade validate --config PAIR.yaml --config calibration.yaml\n"
        "Thresholds chosen at other temperatures no longer hold, so it takes them away.",
    )
    output.write()
