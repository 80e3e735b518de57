"""`lit-cascade import`: a record from arrays of any framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lit_cascade.cli.options import ImportOptions
from lit_cascade.cli.output import Output
from lit_cascade.errors import UsageError, check_file_name
from lit_cascade.records import Record, RecordSummary, arrays
from lit_cascade.report import print_records, records_summary
from lit_cascade.utilities.versions import run_info


def run_files(options: ImportOptions) -> None:
    """Make a record from files of arrays."""
    kind = _kind(options)
    check_file_name(options.name, "--name")
    file = f"{options.name}.safetensors"
    output = Output("import", options, [file])
    record, notes = _of_scores(options) if kind == "score" else _of_logits(options, kind)
    content = record.pieces()
    size = sum(len(piece) for piece in content)
    made = [RecordSummary.of(record, output.folder / file, size)]
    print_records(made, notes, "imported")
    output.summarise(records_summary(made) | {"notes": notes})
    output.add(file, content)
    output.write()


def _kind(options: ImportOptions) -> str:
    """Whether logits, probabilities or scores are given."""
    kinds = [kind for kind in ("logits", "probabilities", "score") if getattr(options, kind)]
    if len(kinds) != 1:
        got = " and ".join(f"--{kind}" for kind in kinds) or "none"
        raise UsageError(
            "expected one of --logits, --probabilities, or --score (with --correct) for a model "
            f"without logits; got {got}."
        )
    if kinds == ["score"] and not options.correct:
        raise UsageError("--correct: needed with --score, to know which answers are right.")
    if kinds != ["score"] and options.correct:
        raise UsageError(f"--correct: belongs to --score; with --{kinds[0]} it is computed.")
    return kinds[0]


def _of_logits(options: ImportOptions, kind: str) -> tuple[Record, list[str]]:
    """A record of logits, and notes on it."""
    if kind == "logits":
        logits, names, notes = arrays.logits_from(options.logits or "")
    else:
        logits, names, notes = arrays.probabilities_from(options.probabilities or "")
    n, width = logits.shape
    classes: Sequence[str] | None = None
    if options.classes:
        classes = arrays.classes_from(options.classes, width)
    elif names:
        classes = names
        shown = ", ".join(names[:5]) + (", ..." if width > 5 else "")
        notes.append(f"Classes are named after the columns: {shown}.")
    labels = arrays.labels_from(options.labels, classes, n) if options.labels else None
    if labels is None:
        notes.append(
            "Without --labels the record holds answers and not whether they are right: enough for "
            "lit-cascade check, and for select --max_disagreement."
        )
    record = _record(options, n, kind, logits=logits, labels=labels, classes=classes)
    return record.with_dtype("float16" if logits.dtype == torch.float16 else options.dtype), notes


def _of_scores(options: ImportOptions) -> tuple[Record, list[str]]:
    """A record of scores and right answers; there are no notes on it."""
    score = arrays.score_from(options.score or "")
    n = len(score)
    correct = arrays.correct_from(options.correct or "", n)
    classes = arrays.classes_from(options.classes, None) if options.classes else None
    labels = arrays.labels_from(options.labels, classes, n) if options.labels else None
    return _record(
        options, n, "score", score=score, correct=correct, labels=labels, classes=classes
    ), []


def _record(options: ImportOptions, n: int, kind: str, **parts: Any) -> Record:
    data = {"name": options.data, "split": options.split, "source": options.source}
    return Record.from_arrays(
        options.name,
        costs=arrays.costs_from(options.flops, options.cost, n),
        ids=arrays.ids_from(options.ids, n) if options.ids else None,
        parameters=options.parameters,
        data={key: value for key, value in data.items() if value is not None},
        model={"imported": kind},
        info=run_info(),
        **parts,
    )
