"""`lit-cascade select`: thresholds for a target, with evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_cascade.analysis import (
    MonthlySaving,
    Selection,
    check_calls,
    cost_notes,
    score_notes,
    select,
)
from lit_cascade.cli.options import SelectOptions
from lit_cascade.cli.output import Output
from lit_cascade.core.guarantee import Promise, Target
from lit_cascade.records import Record, priced
from lit_cascade.report import (
    candidates_csv,
    data_notes,
    draw_selection,
    policy_line,
    print_selection,
    saving_line,
    saving_summary,
    selection_summary,
)

if TYPE_CHECKING:
    from lit_cascade.cli.lightning import CascadeCLI


def run_files(options: SelectOptions) -> None:
    """Choose on records."""
    promise, output = _promise(options), _output(options)
    _report([Record.load(path) for path in options.records or []], promise, options, output)


def run_models(cli: CascadeCLI, options: SelectOptions) -> None:
    """Record the calibration split, then choose on the records."""
    from lit_cascade.lit import not_reported

    promise, output = _promise(options), _output(options)
    check = not_reported(cli.datamodule, options.split, allowed=options.allow_overlap)
    records = cli.trainer.record(cli.model, cli.datamodule, options.split, check, cli.configs)
    if records is not None:
        _report(records, promise, options, output)


def _promise(options: SelectOptions) -> Promise:
    check_calls(options.calls_per_month)
    given = {name: getattr(options, name) for name in Target.__annotations__}
    confidence = None if options.confidence == "none" else float(options.confidence)
    return Promise.of(confidence, **{k: value for k, value in given.items() if value is not None})


def _output(options: SelectOptions) -> Output:
    return Output(
        "select", options, ["policy.yaml", "candidates.csv", "select.png", "summary.json"]
    )


def _report(
    records: Sequence[Record], promise: Promise, options: SelectOptions, output: Output
) -> None:
    """Choose, print, and write the policy."""
    selection = select(
        records,
        promise,
        policy=options.policy,
        cost=options.cost,
        seed=options.seed,
        allow_overlap=options.allow_overlap,
        holdout=options.holdout,
    )
    prices = f" --cost {options.cost}" if "=" in options.cost else ""
    costed, unit = priced(records, options.cost)
    notes = data_notes(records[0].data) + cost_notes(costed, unit)
    notes += score_notes(records, options.policy) + list(selection.notes)
    saving = _saving(selection, options.calls_per_month)
    seen = "chosen on them" if selection.held_out is None else "held out"
    told = [] if saving is None else [saving_line(saving, seen, promise)]
    print_selection(selection, [*told, *notes])
    policy = selection.required_policy()
    output.add_yaml(
        "policy.yaml",
        {"policy": policy.to_dict()},
        "\n".join(
            [
                policy_line(selection),
                *selection.caveats,
                "Written by lit-cascade select. Give it after the config of the cascade:",
                "  lit-cascade validate --config PAIR.yaml --policy policy.yaml",
                f"  lit-cascade check --policy policy.yaml --records SMALL LARGE{prices}",
            ]
        ),
    )
    output.add("candidates.csv", candidates_csv(selection))
    output.add("select.png", draw_selection(selection))
    summary = selection_summary(selection, records)
    output.add_json("summary.json", summary | saving_summary(saving) | {"notes": notes})
    output.write()


def _saving(selection: Selection, calls: float | None) -> MonthlySaving | None:
    """The saving of the policy, on the held-out samples if there are any."""
    if calls is None or selection.chosen is None:
        return None
    held_out = None if selection.held_out is None else selection.held_out.verdict.outcomes
    outcomes = held_out or selection.candidates.outcomes
    return MonthlySaving.of(outcomes, selection.chosen.thresholds, calls)
