"""Folders of records: finding them, reducing them to a zoo one at a time, and summaries."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from lit_cascade.core import (
    AGREEMENT,
    MAX_LOGIT_PNORM,
    answers_of,
    fit_norm,
    fit_temperature,
    is_among_best,
    probabilities_of,
)
from lit_cascade.core.search import Zoo
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.options import Norm
from lit_cascade.records.costs import ModelCosts, with_costs
from lit_cascade.records.record import (
    Record,
    RecordLike,
    check_format,
    opened,
    score_and_correct,
)
from lit_cascade.utilities.files import bundled
from lit_cascade.utilities.tabular import described, listed, shortened
from lit_cascade.utilities.tensors import CHECKPOINT_FORMAT
from lit_cascade.utilities.units import cost_figure, cost_heading, counted, percent

_UNNAMED = "unnamed"

_MEMORY = 2**30
"""Bytes of probabilities that `RecordedZoo.zoo` may keep in memory."""

_MIN_CLASSES_TOP5 = 10
_Fit = TypeVar("_Fit")
_INT16 = 2**15


def find_records(places: Sequence[RecordLike]) -> dict[str, list[Record | Path]]:
    """Records and record files by the split that they are of.

    Args:
        places: records, files, or folders that are searched recursively. Checkpoints of this
            package are skipped.

    Raises:
        UsageError: no such place, or no records in it.
        CascadeError: a .safetensors file that is neither a record nor a checkpoint.
    """
    splits: dict[str, list[Record | Path]] = {}
    if isinstance(places, Record | Path | str):
        places = [places]
    files = [place for place in places if not isinstance(place, Record)]
    for record in places:
        if isinstance(record, Record):
            splits.setdefault(str(record.data.get("split") or _UNNAMED), []).append(record)
    for path in dict.fromkeys(path for place in files for path in _files(str(place))):
        with opened(path) as (_, header):
            pass
        if header.get("format") != CHECKPOINT_FORMAT:
            check_format(path, header, " Give the folder that holds the records alone.")
            splits.setdefault(_split(header), []).append(path)
    if not splits:
        raise UsageError(
            f"--records: there are no records in {', '.join(map(repr, map(str, files)))}; "
            "`lit-cascade record` and `lit-cascade import` write them."
        )
    return splits


def _files(place: str) -> list[Path]:
    here = Path(place).expanduser()
    if not here.exists() and not here.is_absolute():
        there = bundled("checkpoints").parent / place
        here = there if there.exists() else here
    if here.is_dir():
        # hidden files are temporary files of killed recordings
        return sorted(p for p in here.rglob("*.safetensors") if not p.name.startswith("."))
    if here.is_file():
        return [here]
    raise UsageError(f"--records: there is no file or folder {place!r}.")


def _split(header: Mapping[str, str]) -> str:
    try:
        data = json.loads(header.get("data", "{}"))
    except (ValueError, RecursionError):  # damaged: reported when the record is read
        return _UNNAMED
    return str((data.get("split") if isinstance(data, dict) else None) or _UNNAMED)


def _place(source: Record | Path) -> str:
    return source.name if isinstance(source, Record) else str(source)


@dataclass(frozen=True)
class RecordedModel:
    """A model as its record describes it.

    Attributes:
        name: of the model.
        path: of the record; None if it is in memory alone.
        parameters: number of parameters; 0 if unknown.
        costs: mean cost per sample, by unit.
        model: settings that made the model.
        info: library versions, date, and further details of the run.
    """

    name: str
    path: Path | None
    parameters: int
    costs: Mapping[str, float]
    model: Mapping[str, Any]
    info: Mapping[str, Any]

    @classmethod
    def describe(cls, record: Record, path: Path | None, **more: Any) -> Self:
        """Describe the model of a record; a subclass gives its attributes as `more`."""
        return cls(
            name=record.name,
            path=path,
            parameters=record.parameters,
            costs={unit: float(cost.mean()) for unit, cost in record.costs.items()},
            model=record.model,
            info=record.info,
            **more,
        )


class RecordedZoo:
    """Records of many models on one split, read one model at a time.

    Args:
        records: records of different models, or their files.
        unit: of the cost.
        costs: costs measured apart from the records; by default those of the records.

    Attributes:
        models: cheapest first.
        samples: ids, labels and classes that all records share.
        data: description of the data.

    Raises:
        UsageError: fewer than two records, or one model twice.
        CascadeError: records of different samples, labels or classes, without the unit, or damaged.
    """

    def __init__(
        self,
        records: Sequence[Record | Path],
        unit: str = "flops",
        costs: ModelCosts | None = None,
    ) -> None:
        self.unit = unit
        self._costs = costs or {}
        self._sources: dict[str, Record | Path] = {}
        models: dict[str, RecordedModel] = {}
        for source in records:
            record = self._load(source)
            if not models:
                self.samples, self.data = record.samples, record.data
            self.samples.check_same(record.samples, _place(records[0]), _place(source))
            if record.name in models:
                raise UsageError(
                    f"records: the model {record.name!r} is there twice, as "
                    f"{_place(self._sources[record.name])!r} and {_place(source)!r}."
                )
            try:
                record.cost(unit)
            except CascadeError as error:
                raise CascadeError(
                    f"{error} ({_place(source)!r}; choose another with --cost, "
                    f"or give that of all with --cost {unit}=FILE.csv)"
                ) from error
            path = source if isinstance(source, Path) else None
            models[record.name] = RecordedModel.describe(record, path)
            self._sources[record.name] = source
        if len(models) < 2:
            got = f"only {_place(records[0])!r}" if records else "none"
            raise UsageError(f"records: a search needs those of at least 2 models, got {got}.")
        self.models = sorted(models.values(), key=lambda model: (model.costs[unit], model.name))

    def __repr__(self) -> str:
        return described(
            "RecordedZoo",
            f"{counted(len(self), 'model')}: {listed(self.names)}",
            *self.samples.figures(),
        )

    def _load(self, source: Record | Path) -> Record:
        record = source if isinstance(source, Record) else Record.load(source)
        (record,) = with_costs([record], self.unit, self._costs)
        return record

    def record(self, model: RecordedModel) -> Record:
        """The record of one of the models."""
        return self._load(self._sources[model.name])

    def __len__(self) -> int:
        return len(self.models)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, cheapest first."""
        return tuple(model.name for model in self.models)

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.samples.ids)

    def reorder(self, names: Sequence[str]) -> None:
        """Put the models into another order.

        Raises:
            CascadeError: other models.
        """
        missing = sorted(set(names) ^ set(self.names))
        if missing:
            raise CascadeError(
                f"records: {', '.join(missing)} was not recorded on both splits that are searched."
            )
        self.models = [self.models[self.names.index(name)] for name in names]

    def temperatures(
        self, rows: Tensor | None = None, read: Callable[[], None] | None = None
    ) -> tuple[float, ...]:
        """Fit a temperature per model.

        Args:
            rows: positions of the samples to fit to; by default all.
            read: called after each record.

        Raises:
            CascadeError: a record without logits.
        """
        return self._fitted(
            "a temperature", lambda *pair: fit_temperature(*pair, rows=rows).temperature, read
        )

    def norms(
        self, rows: Tensor | None = None, read: Callable[[], None] | None = None
    ) -> tuple[Norm, ...]:
        """Choose a norm per model for the score `max_logit_pnorm`, as `temperatures` fits one.

        Raises:
            CascadeError: a record without logits, or two classes.
        """
        purpose = f"the score {MAX_LOGIT_PNORM.name}"
        return self._fitted(
            purpose, lambda logits, labels: fit_norm(logits, labels, rows).norm, read
        )

    def _fitted(
        self, purpose: str, fit: Callable[[Tensor, Tensor], _Fit], read: Callable[[], None] | None
    ) -> tuple[_Fit, ...]:
        """What a function of logits and labels gives for each model."""
        found = []
        for model in self.models:
            found.append(fit(*self.record(model).logits_for(purpose)))
            if read is not None:
                read()
        return tuple(found)

    def zoo(
        self,
        score: str = "max_softmax",
        combine: str = "later",
        temperatures: Sequence[float] = (),
        norms: Sequence[Norm] = (),
        read: Callable[[], None] | None = None,
    ) -> Zoo:
        """Reduce the records to what a search needs.

        Args:
            score: a name in `lit_cascade.core.scores.SCORES`, ignored for records without logits;
                or `agreement` or `max_logit_pnorm`.
            combine: a name in `lit_cascade.core.combination.COMBINATIONS`.
            temperatures: one per model; by default 1.
            norms: one per model for the score `max_logit_pnorm`, and none otherwise.
            read: called after each record.

        Raises:
            CascadeError: a temperature, norm or average for a record without logits, or agreement
                for one that only holds which answers are right, or confidences outside 0 to 1.
        """
        divisors = tuple(temperatures or (1.0,) * len(self))
        fits = zip(self.models, divisors, norms or (None,) * len(self), strict=True)
        scores = torch.empty(len(self), self.n)
        correct = torch.empty(len(self), self.n, dtype=torch.bool)
        agree = score == AGREEMENT.name
        narrow = torch.int16 if len(self.samples.classes) <= _INT16 else torch.int32
        answers = torch.empty(len(self), self.n, dtype=narrow) if agree else None
        costs = []
        for k, (model, temperature, norm) in enumerate(fits):
            record = self.record(model)
            if answers is not None:
                answers[k] = _answers(record)
            scores[k], correct[k] = score_and_correct(record, score, temperature, norm)
            cost = record.cost(self.unit)
            costs.append(cost[:1] if bool((cost == cost[0]).all()) else cost)
            if read is not None:
                read()
        constant = all(len(cost) == 1 for cost in costs)

        def probabilities(model: int) -> Tensor:
            logits, _ = self.record(self.models[model]).logits_for("an average of answers")
            return probabilities_of(logits, divisors[model])

        average = combine == "average"
        kept = max(2, _MEMORY // (4 * self.n * max(1, len(self.samples.classes))))
        return Zoo(
            names=self.names,
            scores=scores,
            correct=correct,
            costs=torch.stack(costs if constant else [cost.expand(self.n) for cost in costs]),
            combine=combine,
            probabilities=lru_cache(maxsize=kept)(probabilities) if average else None,
            labels=self.samples.labels if average else None,
            answers=answers,
        )


def _answers(record: Record) -> Tensor:
    """Number of the class that a model answers, (N,) int64."""
    output = record.output("agreement")
    return answers_of(output) if isinstance(output, Tensor) else output.answer


@dataclass(frozen=True)
class RecordSummary(RecordedModel):
    """A record file in short.

    Attributes:
        size: of the file, in bytes.
        kept: whether an earlier run wrote the file.
        n: number of samples.
        accuracy: share of right answers of the stored logits; None without labels.
        top5: share of samples with a right label among the five best answers; None with fewer than
            ten classes.
        data: name, split and source.
        classes: number of classes of the model.
    """

    size: int
    kept: bool
    n: int
    accuracy: float | None
    top5: float | None
    data: Mapping[str, Any]
    classes: int

    def __repr__(self) -> str:
        right = [] if self.accuracy is None else [f"accuracy {percent(self.accuracy, 2)}"]
        costs = [
            f"{cost_figure(mean, unit)} {cost_heading(unit)}" for unit, mean in self.costs.items()
        ]
        return described(
            "RecordSummary",
            repr(shortened(self.name)),
            counted(self.n, "sample"),
            counted(self.classes, "class"),
            *right,
            *costs,
        )

    @classmethod
    def of(cls, record: Record, path: Path, size: int, *, kept: bool = False) -> RecordSummary:
        """Summarize a record."""
        accuracy = None
        if record.labels is not None or record.correct is not None:
            accuracy = int(score_and_correct(record)[1].sum()) / len(record)
        return cls.describe(
            record,
            path,
            size=size,
            kept=kept,
            n=len(record),
            accuracy=accuracy,
            top5=_top5(record),
            data=record.data,
            classes=len(record.classes),
        )


def _top5(record: Record) -> float | None:
    logits, labels = record.logits, record.labels
    if logits is None or labels is None or logits.shape[1] < _MIN_CLASSES_TOP5:
        return None
    return int(is_among_best(logits, labels).sum()) / len(record)
