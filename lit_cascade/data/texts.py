"""Labelled and unlabelled texts and pairs of texts: the Hugging Face hub, or files of rows."""

from __future__ import annotations

import codecs
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler, SequentialSampler, default_collate

from lit_cascade.data.buckets import LengthBuckets
from lit_cascade.data.loading import RawSample
from lit_cascade.data.splits import (
    STDIN,
    SplitDataModule,
    check_sizes,
    held_back,
    name_of_inputs,
    shuffled,
)
from lit_cascade.data.tables import (
    TABLES,
    find_label_column,
    load_table,
    only_column,
    published_splits,
)
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.utilities.files import existing_path
from lit_cascade.utilities.units import counted

_VALIDATION = ("validation", "validation_matched", "test")
_TEXTS = ("string", "large_string", "string_view")
# up to six letters of a word, or a sign: about one token. Texts sorted by the number of these need
# less padding than by characters or by words
_PIECE = re.compile(r"\w{1,6}|[^\w\s]")
_NO_LABEL = torch.tensor(-1)


@dataclass(frozen=True, eq=False)
class TextSet(Dataset[RawSample]):
    """Labelled texts, or pairs of them; made by `read_texts`.

    Attributes:
        columns: one or two columns of N texts, as pyarrow holds them.
        labels: (N,) int64.
        ids: (N,) int64, distinct.
        lengths: length of each text or pair, in approximate tokens.
        source: data set and split that the ids belong to.
        classes: names in label order; None if unknown.
        restricts_classes: whether models that know more classes are to answer among these only.
        metric: name of the official metric; None for accuracy.
        findings: remarks on the texts before they are read.
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
        remarks = () if all(text.strip() for text in texts) else ("empty text",)
        return RawSample(texts if len(texts) > 1 else texts[0], self.labels[position], remarks)

    def part(self, positions: Sequence[int], findings: Sequence[str] = ()) -> TextSet:
        """Texts at some positions, with further findings."""
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
    """Read the labelled texts of a table.

    Args:
        rows: a `datasets.Dataset`.
        source: data set and split of the rows.
        text_columns: one, or two for pairs; by default the only one of strings.
        label_column: by default the only one of a label's type, or by its name.
        classes: names in label order; by default those that the table gives.
        metric: name of the official metric; None for accuracy.
        restricts_classes: whether models that know more classes are to answer among these only.

    Returns:
        All rows. Their ids are the column `idx` if it holds distinct whole numbers, else positions.

    Raises:
        UsageError: missing or ambiguous columns, a row without a text, hidden labels, or labels
            that are not classes or not among `classes`.
        CascadeError: there are no rows.
    """
    label = find_label_column(rows, label_column)
    texts = _text_columns(rows, text_columns, label)
    if not len(rows):
        raise CascadeError(f"data.source: {source!r} is empty: it has no rows.")
    ids = {"idx"} & set(rows.column_names) - {*texts, label}
    # in Arrow's format: `datasets` itself converts a column row by row
    table = rows.select_columns([*texts, label, *ids]).with_format("arrow")[:]
    labels = _labels(rows, label, table[label], classes, source)
    columns = tuple(table[name] for name in texts)
    for name, column in zip(texts, columns, strict=True):
        if column.null_count:
            row = column.is_null().index(True).as_py()
            raise UsageError(
                f"data.text_columns: {column.null_count:,} of the {counted(len(column), 'row')} of "
                f"{source!r} have no text in {name!r}, first row {row}; leave these rows out of it."
            )
    rows_of_texts = zip(*(column.to_pylist() for column in columns), strict=True)
    lengths = [sum(len(_PIECE.findall(text)) for text in row) for row in rows_of_texts]
    named = classes if classes is not None else _label_names(rows, label)
    return TextSet(
        columns, labels, _ids(table), lengths, source,
        None if named is None else tuple(named), restricts_classes, metric,
    )  # fmt: skip


def _label_names(rows: Any, label: str) -> list[str] | None:
    """Class names of a table in label order, in alphabetical order if rows name them."""
    names = getattr(rows.features[label], "names", None)
    if names:
        return list(names)
    if getattr(rows.features[label], "dtype", None) not in _TEXTS:
        return None
    return sorted(value for value in rows.unique(label) if value) or None


def _text_columns(
    rows: Any, given: Sequence[str] | None = None, label: str | None = None
) -> list[str]:
    """The column of texts in a table, or the two of pairs: as given, else the only strings."""
    columns = rows.column_names
    strings = [name for name in columns if getattr(rows.features[name], "dtype", None) in _TEXTS]
    if given is None:
        others = [name for name in strings if name != label]
        return [only_column(others, columns, "data.text_columns", "texts, or the two of pairs")]
    if not 1 <= len(given) <= 2:
        raise UsageError(f"data.text_columns: expected one or two, got {len(given)}.")
    for name in given:
        check_name(name, columns, "data.text_columns")
        if name not in strings:
            raise UsageError(
                f"data.text_columns: expected a column of texts ({', '.join(strings) or 'none'}), "
                f"got {name!r} of {getattr(rows.features[name], 'dtype', 'something else')}."
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
    labels = column.to_pylist()
    if kind != "bool" and kind not in _TEXTS and "int" not in kind:
        raise UsageError(
            f"data.label_column: {label!r} holds no class per text: {labels[0]!r}; "
            "expected whole numbers or names."
        )
    if set(labels) == {-1}:
        raise UsageError(
            f"data.source: the labels of {source!r} are hidden (-1), as in the test sets of "
            "benchmarks: nothing can be judged on them; use a split with labels, such as "
            "validation."
        )
    numbers = _class_numbers(_label_names(rows, label), classes, labels)
    strange = [i for i, one in enumerate(labels) if one not in numbers]
    if strange:
        known = list(numbers)
        shown = ", ".join(map(str, known[:10])) + (", ..." if len(known) > 10 else "")
        raise UsageError(
            f"data.label_column: {len(strange):,} of the {counted(len(labels), 'row')} of "
            f"{source!r} have a label in {label!r} that is none of {shown}: first "
            f"{labels[strange[0]]!r} in row "
            f"{strange[0]}. None and -1 mark rows without a label."
        )
    return torch.tensor([numbers[one] for one in labels], dtype=torch.int64)


def _class_numbers(
    names: Sequence[str] | None, classes: Sequence[str] | None, labels: Sequence[Any]
) -> dict[Any, int]:
    """Class number of each label: by name, or the number itself where there are no names."""
    held = {one for one in labels if one is not None}
    if names is None:
        most = len(classes) if classes is not None else max(held, default=-1) + 1
        return {one: int(one) for one in sorted(held) if 0 <= one < most}
    wanted = list(classes if classes is not None else names)
    if any(isinstance(one, str) for one in held):
        return {name: i for i, name in enumerate(wanted)}
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
        ids = table["idx"].to_pylist()
        if None not in ids and len(set(ids)) == len(ids):
            return torch.tensor(ids, dtype=torch.int64)
    return torch.arange(len(table))


def _find_splits(
    source: str, config: str | None, given: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Published split that is read as `train`, `validation` and `test`, where there is one.

    The entry `validation` is None for a single table. If the user gave `train` and `validation`,
    the source is not asked for its splits.
    """
    splits = {split: name for split, name in given.items() if name is not None}
    if {"train", "validation"} <= splits.keys():
        return dict(splits)
    names = published_splits(source, config)
    if not names:
        if splits:
            raise UsageError(
                f"data.{next(iter(splits))}_split: {source!r} is a single table without splits; "
                "give a folder with files called after them."
            )
        return {"validation": None}
    for split, name in splits.items():
        check_name(name, names, f"data.{split}_split")
    others = [name for name in names if name not in splits.values()]
    if "validation" not in splits:
        likely = [name for name in _VALIDATION if name in others] or others
        if likely == others and len(others) != 1:
            raise UsageError(
                "data.validation_split: expected the name of a published split: "
                f"{', '.join(names)}."
            )
        splits["validation"] = likely[0]
    if "train" not in splits and "train" in others and splits["validation"] != "train":
        splits["train"] = "train"
    return dict(splits)


class TextData(SplitDataModule):
    """Labelled texts, or pairs of them: a data set of the hub, or Parquet, CSV or JSON files.

    The texts come as they are: each model of a cascade applies its own tokenizer. Batches are of
    texts of similar length.

    Splits are `train`, if there is one; `development` and `calibration`, if they are held back;
    `validation`; and `test`, if it is named. Each is read when it is asked for.

    Args:
        source: name of a data set on the Hugging Face hub; folder of files called after the splits,
            such as train.csv and validation.csv, or any that `datasets` tells apart; or the path of
            files, with wildcards, which then all are `validation`.
        config: the subset, where a set on the hub has several; or a folder inside of a folder.
        train_split: which published split is `train`; by default that of this name.
        validation_split: which one is `validation`; by default that of this name, else the
            published test set, else the only one.
        test_split: which one is `test`. One without labels, as many benchmarks publish, is refused.
        text_columns: the column of texts, or the two of pairs; by default the only one of strings.
        label_column: by default the only one of a label's type, or by its name.
        classes: names in label order. By default those that the data give: names of a label's type,
            or names in the rows, in alphabetical order of all in train and validation; numbers name
            no classes. With names given, models that know others answer among these only.
        metric: name of the official metric, such as f1 or matthews; by default accuracy.
        calibration_size: number, or share below 1, of texts held back as the split `calibration`,
            drawn by their ids.
        development_size: the same as the split `development`, for choices made in training.
        held_back_from: `train` or `validation`; by default train if there is one. Hold back from
            validation for models that were trained on all of train elsewhere: they are
            overconfident on texts that they were trained on.
        seed: seed of the drawing, and of the order of batches in training.
        name: name of the data in records and tables; by default after the source.
        batch_size: texts per batch.
        num_workers: processes that read and preprocess; 0 does it between batches.
    """

    _pin_memory = True
    hint = (
        " Name a published one, or hold some texts back with data.init_args.calibration_size or "
        "data.init_args.development_size."
    )

    def __init__(
        self,
        source: str,
        config: str | None = None,
        train_split: str | None = None,
        validation_split: str | None = None,
        test_split: str | None = None,
        text_columns: list[str] | None = None,
        label_column: str | None = None,
        classes: list[str] | None = None,
        metric: str | None = None,
        calibration_size: float = 0,
        development_size: float = 0,
        held_back_from: Literal["train", "validation"] | None = None,
        seed: int = 0,
        name: str | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        if held_back_from is not None:
            check_name(held_back_from, ("train", "validation"), "data.held_back_from")
        self._sizes = {"development": development_size, "calibration": calibration_size}
        check_sizes(self._sizes)
        name = name or "/".join([Path(source).name, *([config] if config else [])])
        super().__init__(name, (), batch_size, num_workers)
        self._source, self._config = source, config
        self._given = {"train": train_split, "validation": validation_split, "test": test_split}
        self._columns, self._label_column = text_columns, label_column
        self._classes, self._restricts = classes, classes is not None
        self._metric = metric
        self._from = held_back_from
        self._seed = seed
        self._tables: dict[str, Any] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        held_back = [split for split, size in self._sizes.items() if size]
        named = self._published
        return tuple(
            split
            for split in ("train", *held_back, "validation", "test")
            if split in named or split in held_back
        )

    def prepare_data(self) -> None:
        """Download, once per machine, what is held out; the rest follows when it is asked for."""
        self._table("validation")
        if any(self._sizes.values()):
            self._table(self._origin())

    @cached_property
    def _published(self) -> Mapping[str, str | None]:
        """Published split of each split that is read; None for a single table."""
        published = self._find()
        if self._from == "train" and "train" not in published:
            raise UsageError(
                "data.held_back_from: expected validation, got train: there is no training set."
            )
        return published

    def unlabelled(self, inputs: Sequence[str]) -> UnlabelledTexts:
        """Data module of texts without labels: a table, or files with one per line."""
        return _unlabelled(inputs, self, self._columns, self._classes)

    def _find(self) -> Mapping[str, str | None]:
        return _find_splits(self._source, self._config, self._given)

    def _origin(self) -> str:
        """The split that texts are held back from."""
        return self._from or ("train" if "train" in self._published else "validation")

    def _table(self, origin: str) -> Any:
        if origin not in self._tables:
            self._tables[origin] = load_table(
                self._source, self._published[origin], self._config, argument=f"data.{origin}_split"
            )
        return self._tables[origin]

    def _source_of_ids(self, published: str | None) -> str:
        """Source of the ids of a published split."""
        here = Path(self._source).expanduser()
        base = here.name if here.exists() else self._source
        return "/".join(part for part in (base, self._config, published) if part)

    def _class_names(self, rows: Any) -> Sequence[str] | None:
        """Names of the classes: the same for all splits."""
        if self._classes is None:
            label = find_label_column(rows, self._label_column)
            if not hasattr(rows.features[label], "names") and _label_names(rows, label):
                tables = [self._table(s) for s in ("train", "validation") if s in self._published]
                held = (_label_names(table, label) or () for table in tables)
                return sorted({name for names in held for name in names})
        return self._classes

    def _whole(self, origin: str) -> TextSet:
        """All texts of a published split."""
        rows = self._table(origin)
        return read_texts(
            rows, self._source_of_ids(self._published[origin]), self._columns, self._label_column,
            self._class_names(rows), self._metric, restricts_classes=self._restricts,
        )  # fmt: skip

    def dataset(self, split: str) -> Dataset[Any]:
        """Texts of a split, read when they are first asked for."""
        if split in self.splits and split not in self._datasets:
            origin = self._origin()
            if any(self._sizes.values()) and split in (origin, *self._sizes):
                self._datasets |= self._divided(self._whole(origin), origin)
            else:
                self._datasets[split] = self._whole(split)
        return super().dataset(split)

    def _divided(self, whole: TextSet, origin: str) -> dict[str, TextSet]:
        """Texts that are held back, by split, and the others."""
        order = shuffled(whole.ids, self._seed)
        held = held_back(order, self._sizes, f"texts of {origin}")
        taken = {i for positions in held.values() for i in positions}
        held[origin] = [i for i in range(len(whole)) if i not in taken]
        return {split: whole.part(positions) for split, positions in held.items()}

    def _batches(self, split: str, dataset: Any) -> dict[str, Any]:
        sampler = RandomSampler(dataset) if split == "train" else SequentialSampler(dataset)
        batches = LengthBuckets(
            sampler, self.batch_size, drop_last=False, lengths=dataset.lengths, seed=self._seed
        )
        return {"batch_sampler": batches, "collate_fn": _texts_and_labels}


def _texts_and_labels(samples: Sequence[Any]) -> tuple[list[Any], torch.Tensor]:
    """Collate into a list of texts or pairs, and labels (N,)."""
    labels = default_collate([sample[1] for sample in samples])
    return [sample[0] for sample in samples], labels


@dataclass(frozen=True, eq=False)
class _Texts(Dataset[RawSample]):
    """Unlabelled texts, or pairs of them.

    Attributes:
        columns: one or two columns of N texts, as pyarrow holds them.
        ids: N distinct row numbers, or names.
        source: what the ids belong to.
        classes: names in label order; None for those of the models.
    """

    columns: Sequence[Any]
    ids: Tensor | tuple[str, ...]
    source: str
    classes: tuple[str, ...] | None = None
    restricts_classes: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> RawSample:
        texts = tuple(column[position].as_py() for column in self.columns)
        gone = None if all(text and text.strip() for text in texts) else "no text"
        texts = tuple(text or "" for text in texts)
        return RawSample(texts if len(texts) > 1 else texts[0], _NO_LABEL, (), gone)


class UnlabelledTexts(SplitDataModule):
    """Texts without labels, or pairs of them, as the split `predict`.

    The id of a text is the number of its row in a table, from 0; of a line in a file of lines, from
    1; or `FILE:LINE` if there are several files. A row or line without a text has no answer.

    Args:
        source: name of a data set on the hub; path of Parquet, CSV or JSON files; path of any other
            file, in UTF-8, with one text per line, or two with a tab between; or - for such lines
            from standard input. Several of the files with lines may be given.
        published_split: which split of a data set; by default the validation set, else the test
            set, else the only one.
        text_columns: the column of texts, or the two of pairs; by default the only one of strings.
            Two of any name make lines pairs.
        classes: names of the classes in label order; by default those of the models.
        name: name of the data; by default after the source.
        batch_size: texts per batch.
        num_workers: processes that read and preprocess; 0 does it between batches.
    """

    def __init__(
        self,
        source: list[str] | str,
        published_split: str | None = None,
        text_columns: list[str] | None = None,
        classes: list[str] | None = None,
        name: str | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        self._sources = [source] if isinstance(source, str) else list(dict.fromkeys(source))
        name = name or name_of_inputs(self._sources)
        super().__init__(name, ("predict",), batch_size, num_workers)
        self._published, self._columns = published_split, text_columns
        self.classes = None if classes is None else tuple(classes)

    @property
    def pairs(self) -> bool:
        """Whether samples are pairs of texts."""
        return len(self._columns or ()) == 2

    def unlabelled(self, inputs: Sequence[str]) -> UnlabelledTexts:
        """Data module of other texts: a table, or files with one per line."""
        return _unlabelled(inputs, self, self._columns, self.classes)

    def _prepared(self) -> dict[str, Dataset[Any]]:
        lines = [one for one in self._sources if one == STDIN or _holds_lines(one)]
        if lines == self._sources:
            columns, ids, source = _read_lines(lines, pairs=self.pairs)
        elif len(self._sources) == 1:
            columns, ids, source = self._rows(self._sources[0])
        else:
            raise UsageError(
                "data.source: expected one table, or files with one text per line, got "
                f"{', '.join(self._sources)}."
            )
        return {"predict": _Texts(columns, ids, source, self.classes)}

    def _rows(self, source: str) -> tuple[list[Any], Any, str]:
        """Columns, ids and source of the texts in a table."""
        rows = load_table(source, self._published, what="a table of texts")
        names = _text_columns(rows, self._columns)
        table = rows.select_columns(names).with_format("arrow")[:]
        return [table[name] for name in names], torch.arange(len(table)), Path(source).name


def _holds_lines(source: str) -> bool:
    path = Path(source).expanduser()
    return path.is_file() and path.suffix not in TABLES


def _read_lines(
    sources: Sequence[str], *, pairs: bool
) -> tuple[list[Any], Tensor | tuple[str, ...], str]:
    """Columns, ids and source of the texts in files with one, or a pair, per line."""
    import pyarrow as pa

    texts: list[list[str]] = []
    ids: list[str] = []
    digest = hashlib.sha256()
    for source in sources:
        where = "standard input" if source == STDIN else repr(source)
        content = sys.stdin.buffer.read() if source == STDIN else _bytes_of(source)
        digest.update(content)
        lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
        for number, line in enumerate(lines[: -1 if not lines[-1] else None], start=1):
            try:
                text = line.decode().strip("\r")
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"data.source: line {number} of {where} is not in UTF-8: expected a file with "
                    "one text per line."
                ) from error
            texts.append(_pair(text, number, where) if pairs else [text])
            ids.append(f"{'-' if source == STDIN else source}:{number}")
    if not texts:
        raise CascadeError(f"data.source: {where} is empty: expected one text per line.")
    columns = [pa.array(column, pa.string()) for column in zip(*texts, strict=True)]
    numbered = torch.arange(1, len(ids) + 1) if len(sources) == 1 else tuple(ids)
    name = ", ".join(Path(source).name for source in sources)
    return columns, numbered, f"lines of {name}, SHA-256 {digest.hexdigest()[:16]}"


def _bytes_of(source: str) -> bytes:
    try:
        return Path(source).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"data.source: {source!r} cannot be read: {error.strerror}.") from error


def _pair(line: str, number: int, where: str) -> list[str]:
    """The two texts of a line; none for an empty line."""
    parts = line.split("\t") if line.strip() else ["", ""]
    if len(parts) != 2:
        raise UsageError(
            f"data.source: line {number} of {where} holds {len(parts)} texts: the data of the "
            "config are pairs of texts: expected two per line, with a tab between."
        )
    return parts


def _unlabelled(
    inputs: Sequence[str],
    like: SplitDataModule,
    text_columns: list[str] | None,
    classes: Sequence[str] | None,
) -> UnlabelledTexts:
    """Data module of texts in existing files, in batches as those of another."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    for one in inputs:
        path = Path() if one == STDIN else existing_path(one, "input")
        if one != STDIN and (path.is_dir() or path.suffix.lower() in IMG_EXTENSIONS):
            what = "is a folder" if path.is_dir() else "is an image by its name"
            raise UsageError(
                f"input: {one!r} {what}; the data of the config are texts: expected files with "
                "one text per line, or a table (Parquet, CSV, JSON)."
            )
    batches = like.batch_size, like.num_workers or 0
    names = None if classes is None else list(classes)
    return UnlabelledTexts(list(inputs), None, text_columns, names, None, *batches)
