"""A table of samples on which the first and the last model disagree, from their records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from lit_cascade.analysis import disagreements
from lit_cascade.core import is_right
from lit_cascade.errors import UsageError
from lit_cascade.records import Record
from lit_cascade.report.page.folder import SAMPLES, Results
from lit_cascade.report.page.parts import PartTable, score_name
from lit_cascade.utilities.text import single_line

_IMAGE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+")


def disagreements_table(files: Results, summary: Mapping[str, Any], most: int) -> PartTable:
    """List samples on which the models disagree, those that the first is surest of at the top.

    Args:
        files: results of `validate`, with the records of the stages beside them.
        summary: its `summary.json`.
        most: number of samples to list.

    Raises:
        UsageError: no records, or a score that their logits alone do not give.
        CascadeError: records of other samples, or without answers.
    """
    names = [stage["name"] for stage in summary["stages"]]
    ends, score = (names[0], names[-1]), summary["score"]
    paths = [files.folder / f"{name}.safetensors" for name in ends]
    if not all(path.is_file() for path in paths):
        raise UsageError(
            f"disagreements: {str(files.folder)!r} has no records of {ends[0]!r} and {ends[1]!r}; "
            "lit-cascade validate --save_records keeps them."
        )
    records = [Record.load(path) for path in paths]
    found = disagreements(records, score, [float(summary["temperatures"][name]) for name in ends])
    first, says, other = records[0], found.first, found.last
    inputs = files.json(SAMPLES) if (files.folder / SAMPLES).is_file() else {}
    rows = found.rows[:most]
    table = [
        (
            single_line(str(first.ids[row])),
            *([_input(inputs.get(str(first.ids[row]), {}))] if inputs else []),
            *([] if first.labels is None else [_label(first, row)]),
            _class(first, says.answer[row]),
            f"{float(says.score[row]):.4g}",
            _class(first, other.answer[row]),
            *([] if first.labels is None else [_who(first, row, says.answer, other.answer, ends)]),
        )
        for row in rows.tolist()
    ]
    known = first.labels is not None
    headings = [
        "sample", *(["input"] if inputs else []), *(["label"] if known else []),
        f"{ends[0]} says", score_name(score),
        f"{ends[1]} says", *(["right"] if known else []),
    ]  # fmt: skip
    title = f"Where they disagree: {len(table):,} of {len(found.rows):,} samples, the surest first"
    return PartTable(title, headings, table)


def _input(shown: Mapping[str, str]) -> str:
    """A text, or an image as HTML."""
    address = shown.get("image", "")
    if _IMAGE.fullmatch(address):
        return Markup('<img class="sample" alt="" src="{}">').format(address)
    return shown.get("text", "")


def _class(record: Record, number: Tensor) -> str:
    return record.classes[int(number)] if record.classes else str(int(number))


def _label(record: Record, row: int) -> str:
    labels = torch.atleast_1d(record.labels[row])  # type: ignore[index]
    return ", ".join(_class(record, one) for one in labels if one >= 0)


def _who(record: Record, row: int, first: Tensor, last: Tensor, names: tuple[str, str]) -> str:
    """Which of the two is right."""
    for name, answers in zip(names, (first, last), strict=True):
        if bool(is_right(answers[row : row + 1], record.labels[row : row + 1])):  # type: ignore[index]
            return name
    return "neither"
