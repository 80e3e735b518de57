"""`lit-cascade check`: the promise of a policy, tested on new data."""

from __future__ import annotations

from lit_cascade.analysis import MonthlySaving, check, check_calls, policy_for
from lit_cascade.cli.options import CheckOptions
from lit_cascade.cli.output import Output
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records import Record
from lit_cascade.report import (
    check_summary,
    data_notes,
    print_check,
    saving_line,
    saving_summary,
    verdict_line,
)


def run_files(options: CheckOptions) -> None:
    """Test the promise of a policy on records, or on the answers of a cascade that runs.

    Raises:
        CascadeError: the promise is broken, the data drifted, or the records do not fit the policy.
    """
    given = [name for name in ("records", "metrics", "follow") if getattr(options, name)]
    if len(given) != 1:
        raise UsageError(
            "records: expected those of the policy's stages on new samples, or --metrics or "
            f"--follow for answers; got {' and '.join(f'--{name}' for name in given) or 'none'}."
        )
    check_calls(options.calls_per_month)
    policy = options.policy
    if policy.thresholds is None:
        raise UsageError("--policy: expected the policy.yaml that `lit-cascade select` wrote.")
    if not options.records:
        from lit_cascade.cli.watching import watch

        watch(options)
        return
    if options.state is not None:
        raise UsageError("state: records are tested once; it is for --metrics and --follow.")
    output = Output("check", options, ["check.json"])
    records = [Record.load(path) for path in options.records]
    verdict = check(policy, records, confidence=options.confidence, cost=options.cost)
    notes = [*verdict.notes, *data_notes(records[0].data)]
    saving = None
    if options.calls_per_month is not None and verdict.outcomes is not None:
        thresholds = policy_for(records, policy).required_thresholds()
        saving = MonthlySaving.of(verdict.outcomes, thresholds, options.calls_per_month)
        notes.insert(0, saving_line(saving, "new ones", verdict.promise))
    print_check(verdict, verdict.unit, notes)
    summary = check_summary(verdict) | saving_summary(saving)
    output.add_json("check.json", summary | {"cost": verdict.unit, "notes": notes})
    output.write()
    if not verdict.passed:
        raise CascadeError(verdict_line(verdict, verdict.unit))
