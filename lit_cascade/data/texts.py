"""Labelled texts and pairs of texts of any set: the hub, or files of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, default_collate

from lit_cascade.data.buckets import LengthBuckets
from lit_cascade.data.drawing import drawn
from lit_cascade.data.tables import find_label_column, load_table
from lit_cascade.data.text_set import TextSet, label_names, read_texts
from lit_cascade.data.text_splits import find_splits
from lit_cascade.errors import UsageError, check_name

__all__ = ["TextData"]


class TextData(LightningDataModule):
    """Labelled texts, or pairs of them: a data set of the hub, or Parquet, CSV or JSON files.

    The texts come as they are: each model of a cascade cuts them into tokens itself. Batches are
    of texts of similar length.

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
        calibration_size: texts held back as the split `calibration`, drawn by their ids.
        development_size: texts held back as the split `development`, for choices made in training.
        held_back_from: `train` or `validation`; by default train if there is one. Of models that
            were trained on all of train elsewhere, hold back from validation: they are far surer
            of texts that they have seen.
        seed: of the drawing, and of the order of batches in training.
        name: what to call the data in records and tables; by default after the source.
        batch_size: texts per batch.
        num_workers: processes that read and preprocess; by default it is done between batches.
    """

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
        calibration_size: int = 0,
        development_size: int = 0,
        held_back_from: Literal["train", "validation"] | None = None,
        seed: int = 0,
        name: str | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if held_back_from is not None:
            check_name(held_back_from, ("train", "validation"), "data.held_back_from")
        for argument, value in (
            ("calibration", calibration_size),
            ("development", development_size),
        ):
            if value < 0:
                raise UsageError(f"data.{argument}_size: expected 0 or more, got {value}.")
        self.name = name or "/".join([Path(source).name, *([config] if config else [])])
        self._source, self._config = source, config
        self._given = {"train": train_split, "validation": validation_split, "test": test_split}
        self._columns, self._label_column = text_columns, label_column
        self._classes, self._restricts = classes, classes is not None
        self._metric = metric
        self._sizes = {"development": development_size, "calibration": calibration_size}
        self._from = held_back_from
        self._seed = seed
        self._batch_size, self._num_workers = batch_size, num_workers
        self._published: Mapping[str, str | None] | None = None
        self._tables: dict[str, Any] = {}
        self._wholes: dict[str, TextSet] = {}
        self._parts: dict[str, TextSet] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        held_back = [split for split, size in self._sizes.items() if size]
        there = self._where()
        return tuple(
            split
            for split in ("train", *held_back, "validation", "test")
            if split in there or split in held_back
        )

    def prepare_data(self) -> None:
        """Download, once per machine, what is judged on; the rest follows when it is asked for."""
        self._table("validation")
        if any(self._sizes.values()):
            self._table(self._origin())

    def setup(self, stage: str | None = None) -> None:
        """Find the splits, which are read when they are asked for."""
        del stage
        self._where()

    def _where(self) -> Mapping[str, str | None]:
        """The published split of each that is read; None for a single table."""
        if self._published is None:
            self._published = self._found()
            if self._from == "train" and "train" not in self._published:
                raise UsageError(
                    "data.held_back_from: expected validation, got train: there is no training set."
                )
        return self._published

    def _found(self) -> Mapping[str, str | None]:
        return find_splits(self._source, self._config, self._given)

    def _origin(self) -> str:
        """The split that texts are held back from."""
        return self._from or ("train" if "train" in self._where() else "validation")

    def _table(self, origin: str) -> Any:
        if origin not in self._tables:
            self._tables[origin] = load_table(
                self._source, self._where()[origin], self._config, argument=f"data.{origin}_split"
            )
        return self._tables[origin]

    def _name_of_ids(self, published: str | None) -> str:
        """Where the ids of a published split are counted."""
        here = Path(self._source).expanduser()
        base = here.name if here.exists() else self._source
        return "/".join(part for part in (base, self._config, published) if part)

    def _names(self, rows: Any) -> Sequence[str] | None:
        """Names of the classes: the same for all splits."""
        if self._classes is None:
            label = find_label_column(rows, self._label_column)
            if not hasattr(rows.features[label], "names") and label_names(rows, label):
                tables = [self._table(s) for s in ("train", "validation") if s in self._where()]
                held = {name for table in tables for name in label_names(table, label) or ()}
                return sorted(held)
        return self._classes

    def _whole(self, origin: str) -> TextSet:
        """All texts of a published split."""
        if origin not in self._wholes:
            rows = self._table(origin)
            self._wholes[origin] = read_texts(
                rows, self._name_of_ids(self._where()[origin]), self._columns, self._label_column,
                self._names(rows), self._metric, restricts_classes=self._restricts,
            )  # fmt: skip
        return self._wholes[origin]

    def _part(self, split: str) -> TextSet:
        if split not in self.splits:
            raise UsageError(
                f"data: there is no split {split!r}; there are {', '.join(self.splits)}. Name a "
                "published one, or hold some texts back with data.init_args.calibration_size or "
                "data.init_args.development_size."
            )
        origin = self._origin()
        if not any(self._sizes.values()) or split not in (origin, *self._sizes):
            return self._whole(split)
        if split not in self._parts:
            self._parts |= self._divided(self._whole(origin), origin)
        return self._parts[split]

    def _divided(self, whole: TextSet, origin: str) -> dict[str, TextSet]:
        """Some texts held back, and the others."""
        order = drawn(whole.ids, self._seed)
        held = self._held_back(order, origin, "texts")
        taken = {i for positions in held.values() for i in positions}
        held[origin] = [i for i in range(len(whole)) if i not in taken]
        return {split: whole.part(positions) for split, positions in held.items()}

    def _held_back(self, order: Sequence[int], origin: str, what: str) -> dict[str, list[int]]:
        """Positions of what is held back, the first of those drawn.

        Raises:
            UsageError: nothing would be left.
        """
        wanted = sum(self._sizes.values())
        if wanted >= len(order):
            raise UsageError(
                "data.calibration_size, data.development_size: expected together less than the "
                f"{len(order):,} {what} of {origin}, got {wanted:,}."
            )
        held, begin = {}, 0
        for split, size in self._sizes.items():
            if size:
                held[split] = sorted(order[begin : begin + size])
                begin += size
        return held

    def _loader(self, split: str) -> DataLoader[Any]:
        texts = self._part(split)
        sampler = RandomSampler(texts) if split == "train" else SequentialSampler(texts)
        return DataLoader(
            texts,
            batch_sampler=LengthBuckets(
                sampler, self._batch_size, drop_last=False, lengths=texts.lengths, seed=self._seed
            ),
            num_workers=self._num_workers,
            collate_fn=_texts_and_labels,
            pin_memory=torch.cuda.is_available(),
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the texts to train on, shuffled."""
        return self._loader("train")

    def development_dataloader(self) -> DataLoader[Any]:
        """Batches of the texts that were held back for choices made in training."""
        return self._loader("development")

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Batches of the texts that were held back for calibration."""
        return self._loader("calibration")

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation set, without what is held back from it."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test set."""
        return self._loader("test")


def _texts_and_labels(samples: Sequence[Any]) -> tuple[list[Any], torch.Tensor]:
    """A list of texts or pairs as they are, and labels (N,)."""
    labels = default_collate([sample[1] for sample in samples])
    return [sample[0] for sample in samples], labels
