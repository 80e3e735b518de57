"""`lit-cascade select`: thresholds for a target, with evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lit_cascade.cli.choosing_options import SelectOptions
from lit_cascade.cli.parsing import dispatch

if TYPE_CHECKING:
    from lit_cascade.cli.output import Output
    from lit_cascade.core.guarantee import Promise
    from lit_cascade.records import Record

__all__ = ["main"]

_TARGETS = {
    "max_accuracy_drop": "accuracy_drop",
    "min_accuracy": "accuracy",
    "max_disagreement": "disagreement",
    "deferral_rate": "deferral_rate",
    "max_cost": "cost",
    "max_cost_ratio": "cost_ratio",
}


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("select", argv, SelectOptions, _run_models, _run_records)


def _promise(options: SelectOptions) -> Promise:
    from lit_cascade.core.guarantee import Promise
    from lit_cascade.errors import UsageError

    given = {name: getattr(options, name) for name in _TARGETS}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise UsageError(
            f"expected one target of {', '.join(f'--{name}' for name in _TARGETS)}; got {got}."
        )
    ((name, value),) = given.items()
    confidence = None if options.confidence == "none" else float(options.confidence)
    return Promise(_TARGETS[name], float(value), confidence)


def _output(options: SelectOptions) -> Output:
    from lit_cascade.cli.output import Output

    names = ["policy.yaml", "select.png", "summary.json"]
    return Output("select", options.out, names, overwrite=options.overwrite)


def _run_records(options: SelectOptions) -> None:
    from lit_cascade.records import Record

    promise, output = _promise(options), _output(options)
    report([Record.load(path) for path in options.records or []], promise, options, output)


def _run_models() -> None:
    from lit_cascade.cli.lightning import run_command
    from lit_cascade.lit import LitCascade

    run_command("select", LitCascade, SelectOptions, _select)


def _select(cli: Any, model: Any, datamodule: Any) -> None:
    """Record the calibration split, then choose on the records."""
    from lit_cascade.lit import not_reported

    options: SelectOptions = cli.options
    promise, output = _promise(options), _output(options)
    check = not_reported(datamodule, options.split, allowed=options.allow_overlap)
    records = cli.trainer.record(model, datamodule, options.split, check, cli.configs)
    if records is not None:
        report(records, promise, options, output)


def report(
    records: Sequence[Record], promise: Promise, options: SelectOptions, output: Output
) -> None:
    """Choose, print, and write the policy.

    Raises:
        CascadeError: no policy that is worth having qualifies.
    """
    from lit_cascade.analysis import (
        behaviour_of,
        cost_notes,
        select_thresholds,
        unused_rows,
        without_logits,
    )
    from lit_cascade.core import rule_of
    from lit_cascade.errors import CascadeError
    from lit_cascade.records import at_cost, check_alike
    from lit_cascade.report import (
        Subject,
        data_notes,
        draw_selection,
        none_qualifies,
        policy_line,
        print_selection,
        selection_summary,
    )

    prices = f" --cost {options.cost}" if "=" in options.cost else ""
    records, options = at_cost(records, options)
    check_alike(records)
    first, names = records[0], [record.name for record in records]
    rule = rule_of(options.policy, names, recorded=without_logits(records))
    behaviour = behaviour_of(records, rule, options.cost)
    notes = data_notes(first.data) + cost_notes(records, options.cost)
    rows = unused_rows(options.policy, first)
    if not options.allow_overlap and len(rows) < len(first):
        if len(rows) == 0:
            raise CascadeError(
                f"all {len(first)} samples are among those that this policy's temperatures or "
                "score were fitted on: a threshold needs others. Fit on some of them "
                "(lit-cascade calibrate --share 0.5) or add --allow_overlap, which breaks the "
                "promise."
            )
        notes.append(
            f"Note: {len(first) - len(rows):,} of the {len(first):,} samples are left out: the "
            "temperatures or the score were fitted on them."
        )
        behaviour = behaviour.rows(rows)
    found = select_thresholds(behaviour, promise, options.seed)
    subject = Subject(names, options.cost, rule.score)
    print_selection(found, subject, notes)
    if found.chosen is None:
        raise CascadeError(none_qualifies(found, subject))
    evidence = _evidence(records, options, found, rows)
    output.add_yaml(
        "policy.yaml",
        {"policy": evidence},
        f"{policy_line(found, subject)}\n"
        "Written by lit-cascade select. Give it after the config of the cascade:\n"
        "  lit-cascade validate --config PAIR.yaml --config policy.yaml\n"
        f"  lit-cascade check --policy policy.yaml --records SMALL LARGE{prices}",
    )
    output.add("select.png", draw_selection(found, subject))
    output.add_json("summary.json", selection_summary(found, subject, records) | {"notes": notes})
    output.write()


def _evidence(
    records: Sequence[Record], options: SelectOptions, found: Any, rows: Any
) -> dict[str, Any]:
    """The whole policy with what it was chosen on and what it promises."""
    from dataclasses import asdict
    from math import isnan

    from lit_cascade.analysis import fitted_on, references
    from lit_cascade.report import json_number, typed_thresholds

    names, given = [record.name for record in records], options.policy
    thresholds = dict(zip(names, typed_thresholds(found.chosen), strict=False))
    policy = {key: value for key, value in asdict(given).items() if value is not None}
    policy["thresholds"] = thresholds
    behaviour = found.path.behaviour
    policy["evidence"] = dict(given.evidence or {}) | {
        "thresholds": fitted_on(records[0], rows),
        "promise": {
            "target": found.promise.target,
            "limit": found.promise.limit,
            "confidence": found.promise.confidence,
            "cost": options.cost,
            "stages": names,
            "thresholds": {name: json_number(value) for name, value in thresholds.items()},
            "n": found.n,
            "observed": {
                "value": found.chosen.value,
                "accuracy": None if isnan(found.chosen.accuracy) else found.chosen.accuracy,
                "deferral_rate": found.chosen.deferral_rate,
                "cost_ratio": found.chosen.cost_ratio,
            },
        },
        "models": {
            record.name: {
                "weights": record.model.get("weights"),
                "classes": len(record.classes),
            }
            for record in records
        },
        "scores": references(behaviour, list(thresholds.values()), names),
    }
    return policy
