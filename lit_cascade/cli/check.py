"""`lit-cascade check`: the promise of a policy, tested on new data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lit_cascade.analysis import (
    check_overlap,
    check_promise,
    outcomes_of,
    promise_in,
    without_logits,
)
from lit_cascade.cli.options import CheckOptions
from lit_cascade.cli.output import Output
from lit_cascade.core import Policy
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records import Record, check_alike, read_costs, with_costs
from lit_cascade.report import check_summary, data_notes, print_check, verdict_line


def run_files(options: CheckOptions) -> None:
    """Test the promise of a policy on records.

    Raises:
        CascadeError: the promise is broken, the data drifted, or the records do not fit the policy.
    """
    if options.confidence is not None and not 0.5 <= options.confidence < 1:
        raise UsageError(
            f"--confidence: expected a probability from 0.5 to below 1, got {options.confidence}."
        )
    if not options.records:
        raise UsageError("--records: expected the records of the policy's stages on new samples.")
    output = Output("check", options, ["check.json"])
    policy = options.policy
    if policy.thresholds is None:
        raise UsageError("--policy: expected the policy.yaml that `lit-cascade select` wrote.")
    evidence = policy.evidence or {}
    promise, terms = promise_in(evidence)
    unit = terms["cost"]
    records = [Record.load(path) for path in options.records]
    check_alike(records)
    names = [record.name for record in records]
    if names != terms["stages"]:
        raise CascadeError(
            f"--records: expected records of {', '.join(terms['stages'])}, the policy's stages; "
            f"got {', '.join(names)}."
        )
    thresholds = policy.thresholds_of(names) or ()
    promised = terms["thresholds"]
    if promised is not None and [float(promised[name]) for name in names[:-1]] != list(thresholds):
        raise CascadeError(
            "policy.thresholds: the promise was made for other thresholds; choose again with "
            "lit-cascade select."
        )
    records = _priced(records, options.cost, unit)
    first = records[0]
    notes = check_overlap(policy, first.samples, first.data, allowed=False)
    notes += data_notes(first.data)
    chosen_for = evidence.get("models") or {}
    notes += [
        f"Note: stage {record.name!r} has other weights than the policy was chosen for."
        for record in records
        if (chosen_for.get(record.name) or {}).get("weights") != record.model.get("weights")
    ]
    undecided = replace(policy, thresholds=None)
    rule = Policy.from_options(undecided, names, recorded=without_logits(records))
    verdict = check_promise(
        outcomes_of(records, rule, unit, need_labels=False),
        promise,
        thresholds,
        names,
        evidence.get("scores") or {},
        options.confidence or promise.confidence or 0.95,
    )
    print_check(verdict, unit, notes)
    output.add_json("check.json", check_summary(verdict) | {"cost": unit, "notes": notes})
    output.write()
    if not verdict.passed:
        raise CascadeError(verdict_line(verdict, unit))


def _priced(records: Sequence[Record], cost: str | None, unit: str) -> list[Record]:
    """Records with their costs in the unit that a policy was chosen by."""
    given = unit if cost is None else cost.partition("=")[0]
    if given != unit:
        raise UsageError(
            f"--cost: the policy was chosen by its cost in {unit}; got {given!r}. Give --cost "
            f"{unit}=FILE, or choose again with lit-cascade select."
        )
    costed = with_costs(records, *read_costs(cost or unit))
    for record in costed:
        if unit not in record.costs:
            raise UsageError(
                f"--cost: the policy was chosen by its cost in {unit}, and the record "
                f"{record.name!r} has only {', '.join(record.costs)}; give --cost {unit}=FILE, as "
                "to select."
            )
    return costed
