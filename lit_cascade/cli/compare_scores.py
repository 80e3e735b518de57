"""`lit-cascade compare-scores`: every confidence score of a small model in one table."""

from __future__ import annotations

from lit_cascade.analysis import check_overlap, compare_scores, cost_notes, fitted_on
from lit_cascade.cli.options import CompareScoresOptions
from lit_cascade.cli.output import Output
from lit_cascade.cli.parsing import check_seed
from lit_cascade.errors import UsageError
from lit_cascade.options import PolicyOptions
from lit_cascade.records import Record
from lit_cascade.report import data_notes, draw_scores, print_scores, scores_csv, scores_summary


def run_files(options: CompareScoresOptions) -> None:
    """Compare the scores on records of two models."""
    if not options.records:
        raise UsageError("--records: expected two record files, of a small model and a large one.")
    check_seed(options.seed)
    output = Output("compare-scores", options, ["scores.csv", "scores.png", "summary.json"])
    records = [Record.load(path) for path in options.records]
    fit_on = [Record.load(path) for path in options.fit_on or []]
    data, notes = records[0].data, []
    if fit_on:
        policy = PolicyOptions(evidence={"learned score and thresholds": fitted_on(fit_on[0])})
        allowed = options.allow_overlap
        notes = check_overlap(policy, records[0].samples, data, allowed=allowed)
    notes += data_notes(data)
    comparison = compare_scores(records, fit_on or None, options.share, options.seed, options.cost)
    notes += cost_notes(records, options.cost)
    print_scores(comparison, data, notes)
    output.add("scores.csv", scores_csv(comparison))
    output.add("scores.png", draw_scores(comparison, data))
    output.add_json("summary.json", scores_summary(comparison, records) | {"notes": notes})
    output.write()
