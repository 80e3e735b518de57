"""`lit-cascade check`: the promise of a policy, tested on new data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lit_cascade.cli.choosing_options import CheckOptions
from lit_cascade.cli.parsing import dispatch

if TYPE_CHECKING:
    from lit_cascade.options import PolicyOptions
    from lit_cascade.records import Record

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("check", argv, CheckOptions, None, _run)


def _policy(path: str) -> PolicyOptions:
    """The policy in a file.

    Raises:
        UsageError: there is no such file, or no policy in it.
    """
    from dataclasses import fields
    from pathlib import Path

    import yaml

    from lit_cascade.errors import UsageError
    from lit_cascade.options import PolicyOptions

    try:
        content = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--policy: {path!r} cannot be read: {reason}.") from error
    held = content.get("policy") if isinstance(content, dict) else None
    known = {field.name for field in fields(PolicyOptions)}
    if not isinstance(held, dict) or not set(held) <= known or held.get("thresholds") is None:
        raise UsageError(
            f"--policy: {path!r} holds no policy with thresholds; `lit-cascade select` writes one."
        )
    return PolicyOptions(**held)


def _run(options: CheckOptions) -> None:
    from lit_cascade.analysis import (
        behaviour_of,
        check_overlap,
        check_promise,
        promise_in,
        without_logits,
    )
    from lit_cascade.cli.output import Output
    from lit_cascade.core import rule_of
    from lit_cascade.errors import CascadeError, UsageError
    from lit_cascade.records import Record, check_alike
    from lit_cascade.report import check_summary, data_notes, print_check, verdict_line

    if options.confidence is not None and not 0.5 <= options.confidence < 1:
        raise UsageError(
            f"--confidence: expected a probability from 0.5 to below 1, got {options.confidence}."
        )
    if not options.records:
        raise UsageError("--records: expected the records of the policy's stages on new samples.")
    output = Output("check", options.out, ["check.json"], overwrite=options.overwrite)
    policy = _policy(options.policy)
    promise, told = promise_in(policy.evidence)
    records = [Record.load(path) for path in options.records or []]
    check_alike(records)
    names = [record.name for record in records]
    if names != told["stages"]:
        raise CascadeError(
            f"--records: the policy is of {', '.join(told['stages'])}; got {', '.join(names)}."
        )
    thresholds = policy.thresholds_of(names) or ()
    promised = told["thresholds"]
    if promised is not None and [float(promised[name]) for name in names[:-1]] != list(thresholds):
        raise CascadeError(
            "policy.thresholds: they are not those that the promise was made for; choose again "
            "with lit-cascade select."
        )
    records = _priced(records, options.cost, told["cost"])
    notes = check_overlap(
        policy,
        records[0].ids,
        records[0].data,
        allowed=False,
        fingerprint=records[0].samples.fingerprint,
    )
    notes += data_notes(records[0].data) + _model_notes(policy, records)
    rule = rule_of(policy, names, recorded=without_logits(records))
    verdict = check_promise(
        behaviour_of(records, rule, told["cost"]),
        promise,
        thresholds,
        names,
        (policy.evidence or {}).get("scores") or {},
        options.confidence or promise.confidence or 0.95,
    )
    print_check(verdict, told["cost"], notes)
    output.add_json("check.json", check_summary(verdict) | {"cost": told["cost"], "notes": notes})
    output.write()
    if not verdict.passed:
        raise CascadeError(verdict_line(verdict, told["cost"]))


def _priced(records: Sequence[Record], cost: str | None, unit: str) -> list[Record]:
    """Records with what they cost in the unit that a policy was chosen by.

    Raises:
        UsageError: another unit is given, or nothing says what a record costs in this one.
    """
    from lit_cascade.errors import UsageError
    from lit_cascade.records import priced, prices_from

    given = unit if cost is None else cost.partition("=")[0]
    if given != unit:
        raise UsageError(
            f"--cost: the policy was chosen by its cost in {unit}, and so is its promise; got "
            f"{given!r}. Give --cost {unit}=FILE, or choose again with lit-cascade select."
        )
    found = priced(records, *prices_from(cost or unit))
    for record in found:
        if unit not in record.costs:
            raise UsageError(
                f"--cost: the policy was chosen by its cost in {unit}, which the record "
                f"{record.name!r} does not hold ({', '.join(record.costs)}); give --cost "
                f"{unit}=FILE, as to select."
            )
    return found


def _model_notes(policy: PolicyOptions, records: Sequence[Record]) -> list[str]:
    """Notes on stages with other weights than those that the policy was chosen for."""
    models: Any = (policy.evidence or {}).get("models") or {}
    return [
        f"Note: stage {record.name!r} has other weights than the policy was chosen for."
        for record in records
        if (models.get(record.name) or {}).get("weights") != record.model.get("weights")
    ]
