"""`lit-cascade compare-scores`: every confidence score of a small model in one table."""

from __future__ import annotations

from lit_cascade.analysis import compare_scores, cost_notes
from lit_cascade.cli.options import CompareScoresOptions
from lit_cascade.cli.output import Output
from lit_cascade.cli.parsing import check_seed
from lit_cascade.errors import UsageError
from lit_cascade.records import Record, priced
from lit_cascade.report import data_notes, draw_scores, print_scores, scores_csv, scores_summary


def run_files(options: CompareScoresOptions) -> None:
    """Compare the scores on records of two models."""
    if not options.records:
        raise UsageError("--records: expected two record files, of a small model and a large one.")
    check_seed(options.seed)
    output = Output("compare-scores", options, ["scores.csv", "scores.png", "summary.json"])
    records = [Record.load(path) for path in options.records]
    fit_on = [Record.load(path) for path in options.fit_on or []]
    comparison = compare_scores(
        records,
        fit_on=fit_on or None,
        share=options.share,
        seed=options.seed,
        cost=options.cost,
        allow_overlap=options.allow_overlap,
    )
    data = records[0].data
    notes = [*comparison.notes, *data_notes(data)]
    costed, unit = priced(records, options.cost)
    notes += cost_notes(costed[-2:], unit)
    print_scores(comparison, data, notes)
    output.add("scores.csv", scores_csv(comparison))
    output.add("scores.png", draw_scores(comparison, data))
    output.add_json("summary.json", scores_summary(comparison, records) | {"notes": notes})
    output.write()
