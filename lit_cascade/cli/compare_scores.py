"""`lit-cascade compare-scores`: every score of a small model in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_cascade.cli.choosing_options import CompareScoresOptions
from lit_cascade.cli.parsing import dispatch

if TYPE_CHECKING:
    from lit_cascade.records import Record

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("compare-scores", argv, CompareScoresOptions, None, _run)


def _run(options: CompareScoresOptions) -> None:
    from lit_cascade.analysis import compare_scores, cost_notes
    from lit_cascade.cli.output import Output
    from lit_cascade.errors import UsageError
    from lit_cascade.records import Record
    from lit_cascade.report import data_notes, draw_scores, print_scores, scores_csv, scores_summary

    if not options.records:
        raise UsageError("--records: expected two record files, of a small model and a large one.")
    if not 0 <= options.seed < 2**63:
        raise UsageError(f"--seed: expected a number from 0 to below 2^63, got {options.seed}.")
    names = ["scores.csv", "scores.png", "summary.json"]
    output = Output("compare-scores", options.out, names, overwrite=options.overwrite)
    records = [Record.load(path) for path in options.records]
    fit_on = [Record.load(path) for path in options.fit_on] if options.fit_on else None
    notes = _overlap(records, fit_on, allowed=options.allow_overlap)
    notes += data_notes(records[0].data)
    found = compare_scores(records, fit_on, options.share, options.seed, options.cost)
    notes += cost_notes(records, options.cost)
    data = records[0].data
    where = str(data.get("name", "records"))
    where += f", split {data['split']!r}" if data.get("split") else ""
    print_scores(found, where, notes)
    output.add("scores.csv", scores_csv(found))
    output.add("scores.png", draw_scores(found, where))
    output.add_json("summary.json", scores_summary(found, records) | {"notes": notes})
    output.write()


def _overlap(
    records: Sequence[Record], fit_on: Sequence[Record] | None, *, allowed: bool
) -> list[str]:
    """Notes on samples that are both fitted on and reported on.

    Raises:
        CascadeError: there are some, unless allowed.
    """
    from lit_cascade.analysis import check_overlap, fitted_on
    from lit_cascade.options import PolicyOptions

    if not fit_on:
        return []
    first = records[0]
    return check_overlap(
        PolicyOptions(evidence={"learned score and thresholds": fitted_on(fit_on[0])}),
        first.ids,
        first.data,
        allowed=allowed,
        fingerprint=first.samples.fingerprint,
    )
