"""`lit-cascade select`: thresholds for a target, with evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lit_cascade.analysis import (
    Selection,
    cost_notes,
    fitted_on,
    outcomes_of,
    references,
    select_thresholds,
    unused_rows,
    without_logits,
)
from lit_cascade.cli.options import SelectOptions
from lit_cascade.cli.output import Output
from lit_cascade.core import OperatingPoint, Policy
from lit_cascade.core.guarantee import Promise
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records import Record, check_alike, resolve_cost
from lit_cascade.report import (
    Subject,
    data_notes,
    draw_selection,
    none_qualifies,
    plain,
    policy_line,
    print_selection,
    selection_summary,
    typed_thresholds,
)

if TYPE_CHECKING:
    from lit_cascade.cli.lightning import CascadeCLI

_TARGETS = {
    "max_accuracy_drop": "accuracy_drop",
    "min_accuracy": "accuracy",
    "max_disagreement": "disagreement",
    "deferral_rate": "deferral_rate",
    "max_cost": "cost",
    "max_cost_ratio": "cost_ratio",
}
"""Option: target of a promise."""


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
    return Output("select", options, ["policy.yaml", "select.png", "summary.json"])


def _report(
    records: Sequence[Record], promise: Promise, options: SelectOptions, output: Output
) -> None:
    """Choose, print, and write the policy."""
    prices = f" --cost {options.cost}" if "=" in options.cost else ""
    records, options = resolve_cost(records, options)
    check_alike(records)
    first, names = records[0], [record.name for record in records]
    undecided = replace(options.policy, thresholds=None)
    rule = Policy.from_options(undecided, names, recorded=without_logits(records))
    outcomes = outcomes_of(records, rule, options.cost, need_labels=False)
    notes = data_notes(first.data) + cost_notes(records, options.cost)
    rows = unused_rows(options.policy, first)
    if not options.allow_overlap and len(rows) < len(first):
        if len(rows) == 0:
            raise CascadeError(
                f"this policy's temperatures or score were fitted on all of these {len(first)} "
                "samples, and a threshold needs others. Fit on some of them (lit-cascade calibrate "
                "--share 0.5) or add --allow_overlap, which breaks the promise."
            )
        notes.append(
            f"Note: {len(first) - len(rows):,} of the {len(first):,} samples are left out: the "
            "temperatures or the score were fitted on them."
        )
        outcomes = outcomes.rows(rows)
    selection = select_thresholds(outcomes, promise, options.seed)
    subject = Subject(names, options.cost, rule.score)
    print_selection(selection, subject, notes)
    if selection.chosen is None:
        raise CascadeError(none_qualifies(selection, subject))
    output.add_yaml(
        "policy.yaml",
        {"policy": _policy(records, options, selection, selection.chosen, rows)},
        f"{policy_line(selection, subject)}\n"
        "Written by lit-cascade select. Give it after the config of the cascade:\n"
        "  lit-cascade validate --config PAIR.yaml --config policy.yaml\n"
        f"  lit-cascade check --policy policy.yaml --records SMALL LARGE{prices}",
    )
    output.add("select.png", draw_selection(selection, subject))
    summary = selection_summary(selection, subject, records)
    output.add_json("summary.json", summary | {"notes": notes})
    output.write()


def _policy(
    records: Sequence[Record],
    options: SelectOptions,
    selection: Selection,
    chosen: OperatingPoint,
    rows: Tensor,
) -> dict[str, Any]:
    """The whole policy, with what it was chosen on and what it promises."""
    names, given = [record.name for record in records], options.policy
    thresholds = dict(zip(names, typed_thresholds(chosen), strict=False))
    policy = {key: value for key, value in asdict(given).items() if value is not None}
    policy["thresholds"] = thresholds
    policy["evidence"] = dict(given.evidence or {}) | {
        "thresholds": fitted_on(records[0], rows),
        "promise": {
            **asdict(selection.promise),
            "cost": options.cost,
            "stages": names,
            "thresholds": plain(thresholds),
            "n": selection.n,
            "observed": {
                "value": chosen.value,
                "accuracy": plain(chosen.accuracy),
                "deferral_rate": chosen.deferral_rate,
                "cost_ratio": chosen.cost_ratio,
            },
        },
        "models": {
            record.name: {"weights": record.model.get("weights"), "classes": len(record.classes)}
            for record in records
        },
        "scores": references(selection.candidates.outcomes, list(thresholds.values()), names),
    }
    return policy
