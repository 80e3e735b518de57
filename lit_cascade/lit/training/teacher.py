"""A larger model that a stage learns from, by its record on the training split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.data import SplitInfo
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records import Record
from lit_cascade.utilities.class_names import columns_of

_HINT = "Record it on the split that is trained on: lit-cascade record --split train."


@dataclass
class Teacher:
    """A model to learn from. Its logits are read from a record, so it need not run again.

    The loss is (1 - weight) times that of the labels, plus weight times the distillation loss.
    """

    record: str
    """Record of the teacher on the training split: `lit-cascade record --split train`."""

    weight: float = 0.5
    """Weight of the distillation loss, 0 to 1: 0 learns from the labels alone, 1 from the teacher
    alone."""

    temperature: float = 2.0
    """Divisor of the logits of both models; larger ones show more of the less likely classes."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.weight <= 1:
            raise UsageError(f"teacher.weight: expected 0 to 1, got {self.weight}.")
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"teacher.temperature: expected more than 0, got {self.temperature}.")


def teacher_logits(teacher: Teacher, info: SplitInfo, classes: Sequence[str] | None) -> Tensor:
    """Logits of a teacher for each sample of a split.

    Args:
        teacher: with its record.
        info: the split.
        classes: names in label order; None if neither the data nor the student name them, and the
            order of the record is taken to be theirs.

    Returns:
        (N, C), float16 or float32, by position in the split and by label.

    Raises:
        UsageError: there is no such record.
        CascadeError: it holds scores, or is of other samples, or of classes that cannot be aligned.
    """
    record = Record.load(teacher.record)
    logits, _ = record.logits_for("learning from a teacher")
    source = record.data.get("source")
    sources = ""
    if source != info.source:
        sources = f"; its ids are counted in {source!r}, those of the data in {info.source!r}"
    rows = {key: row for row, key in enumerate(record.ids)}
    wanted = info.ids.tolist()
    missing = [key for key in wanted if key not in rows]
    if missing:
        raise CascadeError(
            f"teacher.record: {record.name!r} lacks {len(missing):,} of the {len(wanted):,} "
            f"training samples, first {missing[0]!r}{sources}. {_HINT}"
        )
    if sources and source is not None and info.source is not None:
        raise CascadeError(f"teacher.record: {record.name!r} is of other samples{sources}. {_HINT}")
    logits = logits[torch.tensor([rows[key] for key in wanted])]
    if classes is None:
        return logits
    who = f"teacher {record.name!r}"
    columns = columns_of(record.classes, classes, who, "the data", fewer=info.restricts)
    return logits if columns is None else logits[:, columns]
