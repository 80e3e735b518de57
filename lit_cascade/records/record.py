"""Columns of a record: one value per sample.

Records: what one model said about one data set. Their files: `record_files`.

A record stands between the models and every question, so it may come from any framework. Where
there are no logits, as with an API, it holds `score` and `correct` instead.

The file of a record: what stands in its header, and what in its tensors.

A safetensors file with the tensors `logits` (N, C), `labels` (N,), `ids` and costs (N,), or `score`
and `correct`, and strings in its header. No pickle is ever read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_cascade.core import Policy, always_defer, is_right, likeliest_labels
from lit_cascade.errors import CascadeError, UsageError, check_logits
from lit_cascade.records.samples import (
    Ids,
    Samples,
    as_ids,
    ids_from_tensors,
    ids_to_tensors,
    whole_numbers,
)
from lit_cascade.utilities.files import write_atomically
from lit_cascade.utilities.tensors import safetensors_pieces

__all__ = [
    "FORMAT",
    "Record",
    "check_alike",
    "check_column",
    "check_costs",
    "per_sample",
    "read_record",
    "record_pieces",
    "score_and_correct",
    "stage_answers",
]


_TENSORS = {"logits", "labels", "ids", "ids_utf8", "ids_length", "score", "correct", "__metadata__"}


def per_sample(cost: Any, n: int) -> Tensor:
    """A cost as (N,) float64, from one number or N of them."""
    numbers = torch.as_tensor(cost, dtype=torch.float64)
    return numbers.expand(n).contiguous() if numbers.ndim == 0 else numbers


def check_column(column: Tensor | None, dtype: torch.dtype, n: int, what: str) -> None:
    """Check that a column, if there is one, has a value of a type for each of `n` samples.

    None may be +inf, which would answer at a threshold that always defers.

    Raises:
        CascadeError: it has not.
    """
    if column is None:
        return
    if column.dtype != dtype or column.shape != (n,) or not bool((column < math.inf).all()):
        raise CascadeError(
            f"{what} must be {n} values, none of them NaN or +inf, one per sample, "
            f"got {column.dtype} of shape {tuple(column.shape)}."
        )


def check_costs(costs: Mapping[str, Tensor], n: int, what: str) -> None:
    """Check that costs are finite, at least 0, per sample, and named so that a file can hold them.

    Raises:
        CascadeError: they are not, or there are none.
    """
    if not costs:
        raise CascadeError(f"{what}: needs a cost per sample, such as flops.")
    for unit, cost in costs.items():
        if not unit.isidentifier() or unit in _TENSORS:
            raise CascadeError(
                f"{what}: {unit!r} cannot name a cost: expected letters, digits and underscores, "
                f"such as latency_s, and none of {', '.join(sorted(_TENSORS))}."
            )
        fine = cost.dtype == torch.float64 and cost.shape == (n,)
        if not fine or not bool((cost.isfinite() & (cost >= 0)).all()):
            raise CascadeError(
                f"{what}: {unit} must be {n} finite numbers of at least 0, one per sample, "
                f"got {cost.dtype} of shape {tuple(cost.shape)}."
            )


@dataclass(frozen=True)
class Record:
    """What one model said about one split, in the order of the ids.

    It holds `logits` and `labels`, or `score` and `correct`, or all of them; with logits the scores
    are computed, and `score` and `correct` are not read. Logits without labels will do for what
    asks who answers, and not whether rightly.

    Attributes:
        name: the stage or model that was recorded.
        ids: what tells samples apart: N distinct integers (N,) int64, or as many strings.
        costs: by unit (`flops`, `latency_s`, ...) what each sample costs for this model alone,
            each (N,) float64.
        logits: shape (N, C), float16 or float32.
        labels: shape (N,) int64, in [0, C); or (N, M) where several are right, filled up with -1.
        classes: names of the C classes in logit order.
        score: how sure the model is, larger is surer, (N,) float32.
        correct: whether its answer is right, (N,) bool.
        parameters: number of parameters of the model; 0 if unknown.
        data: name, source, split and whatever else describes the data.
        model: settings that made the model.
        info: library versions, date, and the like.

    Raises:
        CascadeError: tensors that do not fit each other, NaN or infinite logits, labels out of
            range, repeated ids, costs below 0.
    """

    name: str
    ids: Ids
    costs: Mapping[str, Tensor]
    logits: Tensor | None = None
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    score: Tensor | None = None
    correct: Tensor | None = None
    parameters: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        what = f"record {self.name!r}"
        if self.logits is not None:
            if self.logits.dtype not in {torch.float16, torch.float32}:
                raise CascadeError(
                    f"{what}: logits are stored as float16 or float32, got {self.logits.dtype}."
                )
            check_logits(self.logits, what)
        elif self.score is None or self.correct is None:
            raise CascadeError(f"{what}: without logits it needs both score and correct.")
        n = len(self)
        if n == 0:
            raise CascadeError(f"{what}: no samples: the data set or split is empty.")
        self.samples.check(n, None if self.logits is None else self.logits.shape[1], what)
        check_column(self.score, torch.float32, n, f"{what}: score")
        check_column(self.correct, torch.bool, n, f"{what}: correct")
        check_costs(self.costs, n, what)
        for part in ("data", "model", "info"):
            if not isinstance(getattr(self, part), Mapping):
                raise CascadeError(f"{what}: {part} must be a mapping of names to values.")

    @classmethod
    def from_arrays(
        cls,
        name: str,
        logits: Any = None,
        labels: Any = None,
        *,
        flops: Any = None,
        costs: Mapping[str, Any] | None = None,
        ids: Any = None,
        classes: Sequence[str] | None = None,
        score: Any = None,
        correct: Any = None,
        **details: Any,
    ) -> Record:
        """A record from arrays of any framework.

        Args:
            name: the model's name.
            logits: anything `torch.as_tensor` takes, shape (N, C); float64 is stored as float32.
            labels: integers, shape (N,).
            flops: FLOPs per sample, one number or N of them (one multiply-add is 2 FLOPs).
            costs: the same for costs in other units, by unit.
            ids: distinct integers or strings; by default the positions.
            classes: names in logit order; by default "0", "1", ...
            score: instead of logits, how sure the model is, shape (N,).
            correct: instead of logits, whether the answer is right, 0 or 1, shape (N,).
            details: `parameters`, `data`, `model`, `info`.

        Raises:
            CascadeError: as for the class.

        Example:
            >>> record = Record.from_arrays("net", [[2.0, 0.0]], [0], flops=1280)
            >>> record.logits.shape, record.classes
            (torch.Size([1, 2]), ('0', '1'))
            >>> api = Record.from_arrays("api", score=[0.9], correct=[1], costs={"usd": 0.002})
            >>> api.costs["usd"].tolist()
            [0.002]
        """
        what = f"record {name!r}"
        given = {} if flops is None else {"flops": flops}
        given |= costs or {}
        first = logits if logits is not None else score
        if first is None or not given:
            raise CascadeError(f"{what}: needs logits or score, and flops or another cost.")
        first = torch.as_tensor(first)
        n = len(first) if first.ndim else 0
        if logits is not None:
            logits = first if first.dtype == torch.float16 else first.float()
        if labels is not None:
            labels = whole_numbers(labels, f"{what}: labels")
        if logits is not None or labels is not None:
            known = int(labels.max()) + 1 if labels is not None and labels.numel() else 0
            width = known if logits is None else logits.shape[-1] if logits.ndim else 0
            classes = [str(c) for c in range(width)] if classes is None else classes
        if correct is not None:
            correct = whole_numbers(correct, f"{what}: correct")
            if not bool(((correct == 0) | (correct == 1)).all()):
                raise CascadeError(f"{what}: correct must be 0 or 1 for every sample.")
            correct = correct.bool()
        return cls(
            name=name,
            ids=as_ids(ids, n, f"{what}: ids"),
            costs={unit: per_sample(cost, n) for unit, cost in given.items()},
            logits=logits,
            labels=labels,
            classes=tuple(classes or ()),
            score=None if score is None else torch.as_tensor(score).float(),
            correct=correct,
            **details,
        )

    def __len__(self) -> int:
        held = self.logits if self.logits is not None else self.score
        return 0 if held is None or held.ndim == 0 else len(held)

    @property
    def samples(self) -> Samples:
        """What was recorded, whatever the model."""
        return Samples(self.ids, self.labels, self.classes)

    def cost(self, unit: str = "flops") -> Tensor:
        """What each sample costs in a unit, (N,) float64.

        Raises:
            CascadeError: the record does not know; the message lists the units it has.
        """
        if unit not in self.costs:
            raise CascadeError(
                f"record {self.name!r} has no cost {unit!r}; it has {', '.join(self.costs)}."
            )
        return self.costs[unit]

    def logits_for(self, purpose: str) -> tuple[Tensor, Tensor]:
        """Logits, and one label per sample, for what cannot be done without.

        Where several labels are right it is the one that the model finds likeliest.

        Raises:
            CascadeError: the record holds scores only, or no labels; the message says what that
                does not allow.
        """
        if self.logits is None:
            raise CascadeError(
                f"record {self.name!r} holds scores and no logits, which {purpose} needs."
            )
        if self.labels is None:
            raise CascadeError(f"record {self.name!r} holds no labels, which {purpose} needs.")
        return self.logits, likeliest_labels(self.logits, self.labels)

    def save(self, path: Path | str) -> None:
        """Write the record, whole or not at all.

        Raises:
            UsageError: the place cannot be written to.
        """
        write_atomically(Path(path), record_pieces(self))

    def to_bytes(self) -> bytes:
        """The content of the record's file; the same for the same record."""
        return b"".join(record_pieces(self))

    @classmethod
    def load(cls, path: Path | str) -> Record:
        """Read a record file.

        Raises:
            UsageError: there is no such file.
            CascadeError: it is not a record, or it is damaged.
        """
        return read_record(Path(path), cls)


def check_alike(records: Sequence[Record], least: int = 2) -> None:
    """Check that records are of the same samples, labels and classes, all in the same order.

    Args:
        records: of different models.
        least: how many there must be.

    Raises:
        UsageError: too few records, or one name twice.
        CascadeError: naming the two records and their first difference.
    """
    if len(records) < least:
        raise UsageError(f"records: a cascade needs at least {least} stages, got {len(records)}.")
    names = [record.name for record in records]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"records: the name {twice[0]!r} occurs twice; names tell stages apart.")
    one = records[0]
    for other in records[1:]:
        difference = one.samples.difference(other.samples)
        if difference:
            raise CascadeError(f"records {one.name!r} and {other.name!r} differ in {difference}.")


FORMAT = "lit-cascade-record/1"


def record_pieces(record: Record) -> list[bytes | memoryview]:
    """The content of a record's file in pieces; the same for the same record."""
    held = {name: getattr(record, name) for name in ("logits", "labels", "score", "correct")}
    tensors = {name: tensor for name, tensor in held.items() if tensor is not None}
    tensors |= ids_to_tensors(record.ids)
    constant: dict[str, float | None] = {}
    for unit, cost in record.costs.items():
        same = bool((cost == cost[0]).all())
        constant[unit] = float(cost[0]) if same else None  # one number stands for all
        if not same:
            tensors[unit] = cost
    header = {
        "format": FORMAT,
        "name": record.name,
        "classes": json.dumps(record.classes),
        "costs": json.dumps(constant),
        "parameters": str(record.parameters),
        "fingerprint": record.samples.fingerprint,
        "data": json.dumps(dict(record.data)),
        "model": json.dumps(dict(record.model)),
        "info": json.dumps(dict(record.info)),
    }
    return safetensors_pieces(tensors, header)


def read_record(path: Path, make: Callable[..., Record]) -> Record:
    """The record in a file.

    Args:
        path: of the file.
        make: a record of its parts, by name.

    Raises:
        UsageError: there is no such file.
        CascadeError: it is not a record, or it is damaged.
    """
    if not path.is_file():
        raise UsageError(f"records: there is no file {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            if header.get("format") != FORMAT:
                raise CascadeError(
                    f"records: {str(path)!r} is not a record: its header says format "
                    f"{header.get('format')!r}, expected {FORMAT!r}."
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        record = make(**_parts(tensors, header))
        if record.samples.fingerprint != header["fingerprint"]:
            raise CascadeError(
                f"records: {str(path)!r} is damaged: its ids, labels or classes do not fit "
                "its fingerprint."
            )
    except (
        SafetensorError,
        KeyError,
        ValueError,
        OverflowError,
        RecursionError,
        OSError,
    ) as error:
        raise CascadeError(
            f"records: {str(path)!r} cannot be read as a record: {error}."
        ) from error
    return record


def _is_cost(value: Any) -> bool:
    return value is None or type(value) in {int, float}


def _parts(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, Any]:
    classes, costs = json.loads(header["classes"]), json.loads(header["costs"])
    if not isinstance(costs, dict) or not all(map(_is_cost, costs.values())):
        raise ValueError("its table of costs is malformed")
    ids = ids_from_tensors(tensors)
    return {
        "name": header["name"],
        "ids": ids,
        "costs": {
            unit: tensors[unit] if cost is None else per_sample(float(cost), len(ids))
            for unit, cost in costs.items()
        },
        "logits": tensors.get("logits"),
        "labels": tensors.get("labels"),
        "classes": tuple(classes if isinstance(classes, list) else ()),
        "score": tensors.get("score"),
        "correct": tensors.get("correct"),
        "parameters": int(header["parameters"]),
        "data": json.loads(header["data"]),
        "model": json.loads(header["model"]),
        "info": json.loads(header["info"]),
    }


def stage_answers(record: Record, policy: Policy, stage: int) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, answers and whether they are right; for unknown answers 1 is a right one."""
    if record.logits is not None:
        labels = record.labels
        if labels is None:
            raise CascadeError(
                f"record {record.name!r} holds no labels: what is right is not known."
            )
        confidence, answer = policy.score_and_answer(stage, record.logits)
        return confidence, answer, is_right(answer, labels)
    if policy.temperatures[stage] != 1.0:
        record.logits_for("a temperature")
    if record.score is None or record.correct is None:  # a record is not made without
        raise CascadeError(f"record {record.name!r} holds neither logits nor scores.")
    return record.score, record.correct.long(), record.correct


def score_and_correct(
    record: Record, score: str = "max_softmax", temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Confidence and correctness of one model on every sample.

    Args:
        record: with logits, or with a score of its own.
        score: a name in `lit_cascade.core.scores.SCORES`; a record without logits keeps its own. A
            last stage with logits after stages with `recorded` scores has the largest softmax.
        temperature: divides the logits.

    Returns:
        Scores (N,) float32 and correctness (N,) bool.

    Raises:
        CascadeError: a temperature for a record without logits.
    """
    rule = always_defer(2, score=score, temperatures=(temperature, 1.0))
    confidence, _, correct = stage_answers(record, rule, 0)
    return confidence, correct
