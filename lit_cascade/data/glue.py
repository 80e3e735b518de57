"""GLUE: sentences and pairs of sentences with their official metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lit_cascade.data.drawing import drawn
from lit_cascade.data.sentences import phrases_of, whole_sentences
from lit_cascade.data.tables import published_splits
from lit_cascade.data.text_set import TextSet
from lit_cascade.data.texts import TextData
from lit_cascade.errors import UsageError, check_name

__all__ = ["GlueData"]

_HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class _Task:
    """What is published of a task: columns of texts, names of the classes in label order."""

    columns: tuple[str, ...]
    classes: tuple[str, ...]
    metric: str | None = None
    folder: str | None = None
    validation: tuple[str, ...] = ("validation",)
    test_is_labelled: bool = False


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = _Task(
    ("premise", "hypothesis"),
    ("entailment", "neutral", "contradiction"),
    folder="mnli",
    validation=("validation_matched", "validation"),
)
_TASKS = {
    "sst2": _Task(("sentence",), ("negative", "positive")),
    "mrpc": _Task(_PAIR, ("not_equivalent", "equivalent"), "f1", test_is_labelled=True),
    "rte": _Task(_PAIR, _ENTAILMENT),
    "cola": _Task(("sentence",), ("unacceptable", "acceptable"), "matthews"),
    "qnli": _Task(("question", "sentence"), _ENTAILMENT),
    "qqp": _Task(("question1", "question2"), ("not_duplicate", "duplicate"), "f1"),
    "mnli": _MNLI,
    "mnli_mismatched": replace(_MNLI, validation=("validation_mismatched",)),
    "wnli": _Task(_PAIR, ("not_entailment", "entailment")),
}


class GlueData(TextData):
    """A task of GLUE: `sst2`, `mrpc`, `rte`, `cola`, `qnli`, `qqp`, `mnli` or `wnli`.

    `validation` is the published validation set, of mnli the matched one, or the mismatched one
    of the task `mnli_mismatched`. `test` there is of mrpc only: the labels of the other test sets
    are hidden. The official metric is F1 of mrpc and qqp, Matthews' correlation of cola, and
    accuracy of the others.

    The train set of sst2 consists of phrases that were cut from some 7,000 sentences, of which the
    validation set has whole ones. So whole sentences are held back: texts that are a part of no
    other. All phrases of these, whatever sentence they were cut from, are left out of `train`.

    Args:
        task: one of these.
        source: name of a data set on the Hugging Face hub, or a folder with a folder per task of
            Parquet files: train.parquet, validation.parquet (of mnli validation_matched.parquet
            and validation_mismatched.parquet) and of mrpc test.parquet.
        train_split: `train`, or the name of another file, such as a sample of a large train set.
        calibration_size: texts held back as the split `calibration`, drawn by their ids; from the
            train set, if it is there, else from the validation set.
        development_size: texts held back as the split `development`, for choices made in training.
        held_back_from: `train` or `validation`; by default as above. Of models that were trained on
            all of train elsewhere, hold back from validation: they are far surer of texts that
            they have seen.
        seed: of the drawing, and of the order of batches in training.
        name: what to call the data in records and tables; by default after the task.
        batch_size: texts per batch.
        num_workers: processes that read and preprocess; by default it is done between batches.
    """

    def __init__(
        self,
        task: str,
        source: str = _HUB,
        train_split: str = "train",
        calibration_size: int = 0,
        development_size: int = 0,
        held_back_from: Literal["train", "validation"] | None = None,
        seed: int = 0,
        name: str | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        if task == "stsb":
            raise UsageError(
                "data.task: stsb is a regression, of a similarity from 0 to 5, and a cascade needs "
                f"classes; the tasks with classes are {', '.join(_TASKS)}."
            )
        check_name(task, _TASKS, "data.task")
        about = _TASKS[task]
        super().__init__(
            source,
            about.folder or task,
            text_columns=list(about.columns),
            label_column="label",
            classes=list(about.classes),
            metric=about.metric,
            calibration_size=calibration_size,
            development_size=development_size,
            held_back_from=held_back_from,
            seed=seed,
            name=name or f"glue/{task}",
            batch_size=batch_size,
            num_workers=num_workers,
        )
        self._restricts = False  # the classes are not the user's choice
        self._task, self._train_split = task, train_split

    def _found(self) -> Mapping[str, str | None]:
        about = _TASKS[self._task]
        there = {"train": self._train_split, "validation": about.validation[0]}
        if about.test_is_labelled:
            there["test"] = "test"
        if not Path(self._source).expanduser().exists():
            return there
        names = published_splits(self._source, self._config)
        there["validation"] = next((n for n in about.validation if n in names), "validation")
        check_name(there["validation"], names, f"data.source: table of {self._task}")
        if self._train_split != "train":
            check_name(self._train_split, names, "data.train_split")
        return {split: name for split, name in there.items() if name in names}

    def _name_of_ids(self, published: str | None) -> str:
        """The same on the hub and in a folder: rows are counted in what was published."""
        if published == "validation" != (first := _TASKS[self._task].validation[0]):
            published = first
        here = Path(self._source).expanduser().exists()
        return f"{_HUB if here else self._source}/{self._config}/{published}"

    def _whole(self, origin: str) -> TextSet:
        whole = super()._whole(origin)
        if origin == "train" and self._train_split != "train" and not whole.findings:
            sample = f"{self._train_split}: {len(whole):,} texts, not the official train set"
            self._wholes[origin] = whole = replace(whole, findings=(sample,))
        return whole

    def _divided(self, whole: TextSet, origin: str) -> dict[str, TextSet]:
        if self._task != "sst2" or origin != "train":
            return super()._divided(whole, origin)
        texts = whole.columns[0].to_pylist()
        sentences = whole_sentences(texts)
        order = [sentences[i] for i in drawn(whole.ids[sentences], self._seed)]
        held = self._held_back(order, origin, "whole sentences")
        chosen = [texts[i] for positions in held.values() for i in positions]
        gone = set(phrases_of(chosen, texts))
        left = [i for i in range(len(whole)) if i not in gone]
        if not left:
            raise UsageError(
                "data.calibration_size, data.development_size: all texts of train are phrases of "
                f"the {len(chosen):,} sentences held back; hold fewer back."
            )
        said = (
            f"{len(gone) - len(chosen):,} of the {len(whole):,} texts are phrases of the "
            f"{len(chosen):,} whole sentences held back, of {len(sentences):,}, and are left out"
        )
        parts = {split: whole.part(positions) for split, positions in held.items()}
        return parts | {origin: whole.part(left, (said,))}
