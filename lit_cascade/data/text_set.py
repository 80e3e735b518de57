"""Labelled texts as a dataset: the rows of a table, with what tells them apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_cascade.data.loading import RawSample
from lit_cascade.data.tables import find_label_column, only_column
from lit_cascade.errors import CascadeError, UsageError, check_name

__all__ = ["TextSet", "label_names", "read_texts", "text_columns_of"]

_TEXTS = ("string", "large_string", "string_view")
# up to six letters of a word, or a sign: about what a tokeniser makes a token of. Texts sorted so
# need less padding than by characters or by words
_PIECE = re.compile(r"\w{1,6}|[^\w\s]")
_EMPTY = "empty text"


@dataclass(frozen=True, eq=False)
class TextSet(Dataset[RawSample]):
    """Labelled texts, or pairs of them; made by `read_texts`.

    Attributes:
        columns: one or two columns of N texts, as pyarrow holds them.
        labels: (N,) int64.
        ids: (N,) int64, what tells the texts apart.
        lengths: of each text or pair, in about as many pieces as a tokeniser makes of it.
        source: where the ids are counted.
        classes: names in label order; None if unknown.
        restricts_classes: whether models that know more classes are to answer among these only.
        metric: name of the official metric; None for accuracy.
        findings: what there is to say about the texts before they are read.
    """

    columns: tuple[Any, ...]
    labels: Tensor
    ids: Tensor
    lengths: list[int]
    source: str
    classes: tuple[str, ...] | None
    restricts_classes: bool = False
    metric: str | None = None
    findings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> RawSample:
        texts = tuple(column[position].as_py() for column in self.columns)
        empty = not all(text.strip() for text in texts)
        return RawSample(
            texts if len(texts) > 1 else texts[0],
            self.labels[position],
            (_EMPTY,) if empty else (),
        )

    def part(self, positions: Sequence[int], findings: Sequence[str] = ()) -> TextSet:
        """Those at some positions, with more to say about them."""
        return replace(
            self,
            columns=tuple(column.take(positions) for column in self.columns),
            labels=self.labels[list(positions)],
            ids=self.ids[list(positions)],
            lengths=[self.lengths[i] for i in positions],
            findings=(*self.findings, *findings),
        )


def read_texts(
    rows: Any,
    source: str,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    classes: Sequence[str] | None = None,
    metric: str | None = None,
    *,
    restricts_classes: bool = False,
) -> TextSet:
    """The texts of a table.

    Args:
        rows: a `datasets.Dataset`.
        source: where its rows are counted.
        text_columns: one, or two for pairs; by default the only one of strings.
        label_column: by default the only one of a label's type, or by its name.
        classes: names in label order; by default those that the table gives.
        metric: name of the official metric; None for accuracy.
        restricts_classes: whether models that know more classes are to answer among these only.

    Returns:
        All rows. Their ids are the column `idx` if it holds distinct whole numbers, else positions.

    Raises:
        UsageError: columns that are not there or could be several, a row without a text, labels
            that are hidden, no classes at all, or not among `classes`.
        CascadeError: there are no rows.
    """
    label = find_label_column(rows, label_column)
    texts = text_columns_of(rows, text_columns, label)
    if not len(rows):
        raise CascadeError(f"data.source: {source!r} is empty: it has no rows.")
    ids = {"idx"} & set(rows.column_names) - {*texts, label}
    # as Arrow has it: `datasets` goes through a column row by row
    table = rows.select_columns([*texts, label, *ids]).with_format("arrow")[:]
    labels = _labels(rows, label, table[label], classes, source)
    columns = tuple(table[name] for name in texts)
    for name, column in zip(texts, columns, strict=True):
        if column.null_count:
            row = column.is_null().index(True).as_py()
            raise UsageError(
                f"data.text_columns: {column.null_count:,} of the {len(column):,} rows of "
                f"{source!r} have no text in {name!r}, first row {row}; leave these rows out of it."
            )
    named = classes if classes is not None else label_names(rows, label)
    return TextSet(
        columns, labels, _ids(table), _lengths(columns), source,
        None if named is None else tuple(named), restricts_classes, metric,
    )  # fmt: skip


def label_names(rows: Any, label: str) -> list[str] | None:
    """Names of the classes as a table gives them, in label order; in order where rows name them."""
    names = getattr(rows.features[label], "names", None)
    if names:
        return list(names)
    if getattr(rows.features[label], "dtype", None) not in _TEXTS:
        return None
    return sorted(value for value in rows.unique(label) if value) or None


def text_columns_of(
    rows: Any, given: Sequence[str] | None = None, label: str | None = None
) -> list[str]:
    """The column of texts in a table, or the two of pairs.

    Args:
        rows: a `datasets.Dataset`.
        given: their names; by default the only one of strings.
        label: the column of labels, which holds no texts.

    Raises:
        UsageError: there is no such column, or several could be meant.
    """
    columns = rows.column_names
    strings = [name for name in columns if getattr(rows.features[name], "dtype", None) in _TEXTS]
    if given is None:
        found = [name for name in strings if name != label]
        return [only_column(found, columns, "data.text_columns", "texts, or the two of pairs")]
    if not 1 <= len(given) <= 2:
        raise UsageError(f"data.text_columns: expected one or two, got {len(given)}.")
    for name in given:
        check_name(name, columns, "data.text_columns")
        if name not in strings:
            raise UsageError(
                f"data.text_columns: {name!r} holds no texts but "
                f"{getattr(rows.features[name], 'dtype', 'something else')}; "
                f"those of texts are {', '.join(strings) or 'none'}."
            )
    return list(given)


def _labels(
    rows: Any, label: str, column: Any, classes: Sequence[str] | None, source: str
) -> Tensor:
    """Class numbers (N,) int64 of the rows."""
    kind = str(getattr(rows.features[label], "dtype", "several values"))
    if "float" in kind or "double" in kind:
        raise UsageError(
            f"data.label_column: {label!r} holds numbers such as {column[0]}: that is a "
            "regression, and a cascade needs classes: whole numbers or names."
        )
    found = column.to_pylist()
    if kind != "bool" and kind not in _TEXTS and "int" not in kind:
        raise UsageError(
            f"data.label_column: {label!r} holds no class per text: {found[0]!r}; "
            "expected whole numbers or names."
        )
    if set(found) == {-1}:
        raise UsageError(
            f"data.source: the labels of {source!r} are hidden (-1), as in the test sets of "
            "benchmarks: nothing can be judged on them; use a split with labels, such as "
            "validation."
        )
    table = _numbers(label_names(rows, label), classes, found)
    strange = next((i for i, one in enumerate(found) if one not in table), None)
    if strange is not None:
        known = list(table)
        shown = ", ".join(map(str, known[:10])) + (", ..." if len(known) > 10 else "")
        n = sum(one not in table for one in found)
        raise UsageError(
            f"data.label_column: {n:,} of the {len(found):,} rows of {source!r} have a label in "
            f"{label!r} that is none of {shown}: first {found[strange]!r} in row {strange}. "
            "None and -1 mark rows without a label."
        )
    return torch.tensor([table[one] for one in found], dtype=torch.int64)


def _numbers(
    names: Sequence[str] | None, classes: Sequence[str] | None, found: Sequence[Any]
) -> dict[Any, int]:
    """The class number of each label: by its name, or the number itself where there are no names.

    Raises:
        UsageError: `classes` are others than the table names.
    """
    held = {one for one in found if one is not None}
    if names is None:
        most = len(classes) if classes is not None else max(held, default=-1) + 1
        return {one: int(one) for one in sorted(held) if 0 <= one < most}
    if any(isinstance(one, str) for one in held):
        return {name: i for i, name in enumerate(classes if classes is not None else names)}
    wanted = list(classes if classes is not None else names)
    if set(wanted) == set(names):
        return {i: wanted.index(name) for i, name in enumerate(names)}
    if len(wanted) == len(names) and not set(wanted) & set(names):
        return {i: i for i in range(len(names))}  # other names for the same, in the same order
    raise UsageError(
        f"data.classes: expected the classes of the data, {', '.join(names)}, in any order, or as "
        f"many other names; got {', '.join(wanted)}."
    )


def _ids(table: Any) -> Tensor:
    if "idx" in table.column_names and "int" in str(table.schema.field("idx").type):
        found = table["idx"].to_pylist()
        if None not in found and len(set(found)) == len(found):
            return torch.tensor(found, dtype=torch.int64)
    return torch.arange(len(table))


def _lengths(columns: Sequence[Any]) -> list[int]:
    counts = [
        [len(_PIECE.findall(text)) for part in column.iterchunks() for text in part.to_pylist()]
        for column in columns
    ]
    return [sum(of_row) for of_row in zip(*counts, strict=True)]
