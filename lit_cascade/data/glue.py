"""GLUE (arXiv:1804.07461): sentences and pairs of sentences with their official metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_cascade.data.splits import held_back, shuffled
from lit_cascade.data.tables import published_splits
from lit_cascade.data.texts import TextData, TextSet
from lit_cascade.errors import UsageError, check_name
from lit_cascade.utilities.units import counted

_HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class _Task:
    """Published columns of texts of a task, and names of the classes in label order."""

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

    `validation` is the published validation set: the matched one of `mnli`, the mismatched one of
    the task `mnli_mismatched`. Only `mrpc` has `test`: the labels of the other test sets are
    hidden. The official metric is F1 for mrpc and qqp, Matthews' correlation for cola, and accuracy
    for the others.

    The training set of sst2 consists of phrases cut from some 7,000 sentences; the validation set
    has whole sentences. So whole sentences are held back: texts that are part of no other. All
    phrases of these, whatever sentence they were cut from, are left out of `train`.

    Args:
        task: one of these.
        source: name of a data set on the Hugging Face hub, or a folder with a folder per task of
            Parquet files: train.parquet, validation.parquet (for mnli validation_matched.parquet
            and validation_mismatched.parquet) and for mrpc test.parquet.
        train_split: `train`, or the name of another file, such as a sample of a large train set.
        name: name of the data in records and tables; by default after the task.
        options: further arguments of `TextData`.
    """

    def __init__(
        self,
        task: str,
        source: str = _HUB,
        train_split: str = "train",
        name: str | None = None,
        **options: Any,
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
            validation_split=None,
            test_split=None,
            text_columns=list(about.columns),
            label_column="label",
            classes=list(about.classes),
            metric=about.metric,
            name=name or f"glue/{task}",
            **options,
        )
        self._restricts = False  # the classes are not the user's choice
        self._task, self._train_split = task, train_split

    def _find(self) -> Mapping[str, str | None]:
        about = _TASKS[self._task]
        splits = {"train": self._train_split, "validation": about.validation[0]}
        if about.test_is_labelled:
            splits["test"] = "test"
        if not Path(self._source).expanduser().exists():
            return splits
        names = published_splits(self._source, self._config)
        splits["validation"] = next((n for n in about.validation if n in names), "validation")
        check_name(splits["validation"], names, f"data.source: table of {self._task}")
        if self._train_split != "train":
            check_name(self._train_split, names, "data.train_split")
        return {split: name for split, name in splits.items() if name in names}

    def _source_of_ids(self, published: str | None) -> str:
        """Source of the ids, the same on the hub and in a folder."""
        if published == "validation" != (first := _TASKS[self._task].validation[0]):
            published = first
        here = Path(self._source).expanduser().exists()
        return f"{_HUB if here else self._source}/{self._config}/{published}"

    def _whole(self, origin: str) -> TextSet:
        whole = super()._whole(origin)
        if origin == "train" and self._train_split != "train":
            texts = counted(len(whole), "text")
            finding = f"{self._train_split}: {texts}, not the official train set"
            return replace(whole, findings=(finding,))
        return whole

    def _divided(self, whole: TextSet, origin: str) -> dict[str, TextSet]:
        if self._task != "sst2" or origin != "train":
            return super()._divided(whole, origin)
        texts = whole.columns[0].to_pylist()
        sentences = whole_sentences(texts)
        order = [sentences[i] for i in shuffled(whole.ids[sentences], self._seed)]
        held = held_back(order, self._sizes, f"whole sentences of {origin}")
        chosen = [texts[i] for positions in held.values() for i in positions]
        gone = set(phrases_of(chosen, texts))
        left = [i for i in range(len(whole)) if i not in gone]
        if not left:
            raise UsageError(
                "data.calibration_size, data.development_size: all texts of train are phrases of "
                f"the {len(chosen):,} sentences held back; hold fewer back."
            )
        finding = (
            f"{len(gone) - len(chosen):,} of the {len(whole):,} texts are phrases of the "
            f"{len(chosen):,} whole sentences held back, of {len(sentences):,}, and are left out"
        )
        parts = {split: whole.part(positions) for split, positions in held.items()}
        return parts | {origin: whole.part(left, (finding,))}


def whole_sentences(texts: Sequence[str]) -> list[int]:
    """Positions of the texts that are part of no other; a part is a run of consecutive words.

    Of texts that differ only in spaces the first counts.

    Examples:
        >>> whole_sentences(["a fine film", "fine", "a dull film", "fine film", "a  dull film"])
        [0, 2]
    """
    words = [" ".join(text.split()) for text in texts]
    known, parts = set(words), set[str]()
    whole = []
    # the longest first: a part of a part is a part of the whole, too, so that only whole sentences
    # are taken apart
    for i in sorted(range(len(words)), key=lambda i: -words[i].count(" ")):
        if words[i] not in parts:
            whole.append(i)
            parts.update(part for part in _parts(words[i]) if part in known)
    return sorted(whole)


def phrases_of(sentences: Iterable[str], texts: Sequence[str]) -> list[int]:
    """Positions of the texts that are a part of any of some sentences, or all of one.

    Examples:
        >>> phrases_of(["a fine film"], ["film", "a film", "a fine film", "fine  film", "fin"])
        [0, 2, 3]
    """
    parts = {part for text in sentences for part in _parts(" ".join(text.split()))}
    return [i for i, text in enumerate(texts) if " ".join(text.split()) in parts]


def _parts(sentence: str) -> Iterator[str]:
    """All parts of a sentence with single spaces between words; the sentence itself is one."""
    spaces = [i for i, letter in enumerate(sentence) if letter == " "]
    starts, ends = [0, *(i + 1 for i in spaces)], [*spaces, len(sentence)]
    for first, start in enumerate(starts):
        for end in ends[first:]:
            yield sentence[start:end]
