"""A record of one model on one split, and its file.

The file is safetensors: tensors `logits` (N, C), `labels`, `ids`, `prediction`, `score`, `correct`
and the costs that vary, each (N,), with JSON strings in the header. No pickle is ever read. Beside
predictions whole numbers are as narrow as they can be, and ids that are positions are left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_cascade.core import (
    Policy,
    RecordedAnswers,
    StageOutput,
    answers_of,
    check_logits,
    is_right,
    likeliest_labels,
    score_and_answer,
)
from lit_cascade.errors import CascadeError, UsageError, name_fault
from lit_cascade.options import Norm
from lit_cascade.records.samples import Ids, Samples, listed_labels, whole_numbers
from lit_cascade.utilities.files import write_atomically
from lit_cascade.utilities.mapped import mapped_tensor, row_slices, taken
from lit_cascade.utilities.tabular import Tabular, described, shortened
from lit_cascade.utilities.tensors import safetensors_pieces
from lit_cascade.utilities.units import cost_figure, cost_heading, counted, percent

FORMAT = "lit-cascade-record/1"

_AT_ONCE = 2**20
"""Logits that are converted at once."""

_COLUMNS = ("logits", "labels", "prediction", "score", "correct")
_DETAILS = ("data", "model", "info")
_WHOLE = ("prediction", "labels", "ids")
_NARROW = (torch.int8, torch.int16, torch.int32)
_RESERVED = {*_COLUMNS, "ids", "ids_utf8", "ids_length", "__metadata__"}


@dataclass(frozen=True)
class Record(Tabular):
    """Answers of one model on one split, sample by sample.

    A record holds `logits`, or `prediction`, or `score` and `correct`, and `labels`. Where there
    are logits, the others are not read. Predictions may have a `score` beside them. Without labels
    it is known which stage answers, but not whether the answer is right.

    Attributes:
        name: of the model, or of the stage.
        ids: of the N samples; an int64 tensor or strings are converted to `Ids`.
        costs: by unit (`flops`, `latency_s`, ...), cost of each sample for this model alone, each
            (N,) float64.
        logits: (N, C), float16 or float32.
        labels: (N,) int64, in [0, C); (N, M) with -1 as padding where several labels are right.
        classes: names of the C classes in logit order.
        prediction: number of the class that the model answers, (N,) int64.
        score: confidence of the model, larger is surer, (N,) float32.
        correct: whether the answer is right, (N,) bool; computed from predictions and labels.
        parameters: number of parameters of the model; 0 if unknown.
        data: name, source and split of the data, and further details.
        model: settings that made the model.
        info: library versions, date, and further details of the run.

    Raises:
        CascadeError: tensors that do not fit each other, NaN or infinite logits, labels out of
            range, repeated ids, negative costs or parameters, names that cannot be shown.
    """

    name: str
    ids: Ids
    costs: Mapping[str, Tensor]
    logits: Tensor | None = None
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    prediction: Tensor | None = None
    score: Tensor | None = None
    correct: Tensor | None = None
    parameters: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        object.__setattr__(self, "ids", Ids(self.ids))
        if fault := name_fault(self.name):
            raise CascadeError(f"record: its name: {fault}.")
        what = f"record {self.name!r}"
        if self.logits is not None:
            if self.logits.dtype not in {torch.float16, torch.float32}:
                raise CascadeError(
                    f"{what}: logits are stored as float16 or float32, got {self.logits.dtype}."
                )
            check_logits(self.logits, what)
        elif self.prediction is None and (self.score is None or self.correct is None):
            raise CascadeError(
                f"{what}: without logits it needs predictions, or both score and correct."
            )
        n = len(self)
        if n == 0:
            raise CascadeError(f"{what}: no samples: the data set or split is empty.")
        self.samples.check(n, None if self.logits is None else self.logits.shape[1], what)
        self._check_predictions(what)
        _check_column(self.score, torch.float32, n, f"{what}: score")
        _check_column(self.correct, torch.bool, n, f"{what}: correct")
        _check_costs(self.costs, n, what)
        for part in _DETAILS:
            if not isinstance(getattr(self, part), Mapping):
                raise CascadeError(f"{what}: {part} must be a mapping of names to values.")
        _check_details(self.data, self.model, what)
        given: Any = self.parameters
        whole = isinstance(given, Integral) and not isinstance(given, bool)
        if not whole or not 0 <= given < 2**63:
            raise CascadeError(
                f"{what}: parameters must be a whole number of at least 0, got "
                f"{shortened(repr(given))}."
            )

    def _check_predictions(self, what: str) -> None:
        """Check that predictions are numbers of classes, and right where `correct` says so."""
        prediction, n, classes = self.prediction, len(self), len(self.classes)
        if prediction is None:
            return
        if prediction.dtype != torch.int64 or prediction.shape != (n,):
            raise CascadeError(
                f"{what}: predictions must be {counted(n, 'whole number')}, one per sample, got "
                f"{prediction.dtype} of shape {tuple(prediction.shape)}."
            )
        wrong = ((prediction < 0) | (prediction >= classes)).nonzero().flatten()
        if len(wrong):
            row = int(wrong[0])
            raise CascadeError(
                f"{what}: {counted(len(wrong), 'prediction')} outside the {classes} classes "
                f"(0 to {classes - 1}), first {int(prediction[row])} at row {row}. An answer that "
                "is none of them needs a class of its own."
            )
        right = self.right
        if self.correct is not None and right is not None:
            other = (right ^ self.correct).nonzero().flatten()
            if len(other):
                raise CascadeError(
                    f"{what}: correct differs from what predictions and labels say, first at row "
                    f"{int(other[0])}; leave it out."
                )

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
        prediction: Any = None,
        score: Any = None,
        correct: Any = None,
        **details: Any,
    ) -> Record:
        """Make a record from arrays of any framework.

        Args:
            name: of the model.
            logits: anything `torch.as_tensor` takes, (N, C); float64 is stored as float32.
            labels: integers, (N,).
            flops: FLOPs per sample, one number or N of them (one multiply-add is 2 FLOPs).
            costs: costs in other units, by unit, each one number or N of them.
            ids: distinct integers or strings; by default the positions.
            classes: names in logit order; by default "0", "1", ...
            prediction: instead of logits, numbers of the classes that the model answers, (N,).
            score: beside predictions or instead of them, confidence of the model, (N,).
            correct: instead of logits, whether the answer is right, 0 or 1, (N,).
            details: `parameters`, `data`, `model`, `info`.

        Raises:
            CascadeError: as for the class.

        Examples:
            >>> record = Record.from_arrays("net", [[2.0, 0.0]], [0], flops=1280)
            >>> record.logits.shape, record.classes
            (torch.Size([1, 2]), ('0', '1'))
            >>> api = Record.from_arrays("api", score=[0.9], correct=[1], costs={"usd": 0.002})
            >>> api.costs["usd"].tolist()
            [0.002]
        """
        what = f"record {name!r}"
        costs = ({} if flops is None else {"flops": flops}) | dict(costs or {})
        first = next((one for one in (logits, prediction, score) if one is not None), None)
        if first is None or not costs:
            raise CascadeError(
                f"{what}: needs logits, predictions or score, and flops or another cost."
            )
        first = torch.as_tensor(first)
        n = len(first) if first.ndim else 0
        if logits is not None:
            logits = first if first.dtype == torch.float16 else first.float()
        if labels is not None:
            labels = whole_numbers(labels, f"{what}: labels")
        if prediction is not None:
            prediction = whole_numbers(prediction, f"{what}: predictions")
        if classes is None and logits is not None:
            classes = [str(c) for c in range(logits.shape[-1] if logits.ndim else 0)]
        elif classes is None:
            known = [one.max() for one in (labels, prediction) if one is not None and one.numel()]
            classes = [str(c) for c in range(int(max(known)) + 1 if known else 0)]
        if correct is not None:
            correct = whole_numbers(correct, f"{what}: correct")
            if not bool(((correct == 0) | (correct == 1)).all()):
                raise CascadeError(f"{what}: correct must be 0 or 1 for every sample.")
            correct = correct.bool()
        return cls(
            name=name,
            ids=Ids.of(ids, n, f"{what}: ids"),
            costs={unit: _per_sample(cost, n) for unit, cost in costs.items()},
            logits=logits,
            labels=labels,
            classes=tuple(classes or ()),
            prediction=prediction,
            score=None if score is None else torch.as_tensor(score).float(),
            correct=correct,
            **details,
        )

    def __len__(self) -> int:
        columns = (self.logits, self.prediction, self.score)
        column = next((one for one in columns if one is not None), None)
        return 0 if column is None or column.ndim == 0 else len(column)

    def columns(self) -> dict[str, Any]:
        """One row per sample: `id, label, prediction, correct, score`, and a column per cost.

        Predictions are numbers of classes; the score of logits is the largest class probability.
        What is unknown has no column. Where several labels are right, `label` is a tuple.
        """
        columns: dict[str, Any] = {"id": self.ids.tolist()}
        if self.labels is not None:
            columns["label"] = listed_labels(self.labels)
        score, answer = self.score, self.prediction
        if self.logits is not None:
            score, answer = score_and_answer(self.logits)
        known = {"prediction": answer, "correct": self.right, "score": score, **self.costs}
        return columns | {name: part.tolist() for name, part in known.items() if part is not None}

    def __repr__(self) -> str:
        figures, correct = self.samples.figures(), self.right
        if self.logits is None:
            score = "" if self.score is None else " and scores" if self.knows_answers else "scores"
            what = f"predictions{score}" if self.knows_answers else score
            figures.append(f"{what} without logits")
        if correct is not None:
            figures.append(f"accuracy {percent(float(correct.double().mean()), 2)}")
        means = {unit: float(cost.mean()) for unit, cost in self.costs.items()}
        costs = [f"{cost_figure(mean, unit)} {cost_heading(unit)}" for unit, mean in means.items()]
        return described("Record", repr(shortened(self.name)), *figures, *costs)

    @property
    def samples(self) -> Samples:
        """Ids, labels and classes."""
        return Samples(self.ids, self.labels, self.classes)

    @property
    def knows_answers(self) -> bool:
        """Whether the record holds logits or predictions, and not only which answers are right."""
        return self.logits is not None or self.prediction is not None

    @property
    def right(self) -> Tensor | None:
        """Whether each answer of the model is right, (N,) bool; None without labels."""
        if not self.knows_answers:
            return self.correct
        if self.labels is None:
            return None
        answer = self.prediction if self.logits is None else answers_of(self.logits)
        return None if answer is None else is_right(answer, self.labels)

    def output(self, purpose: str) -> StageOutput:
        """Logits (N, C), or predictions with their confidence, which is 0 where there is none.

        Args:
            purpose: what needs to know the answers, for the message.

        Raises:
            CascadeError: the record only holds which answers are right.
        """
        if self.logits is not None:
            return self.logits
        if self.prediction is None:
            raise CascadeError(
                f"record {self.name!r} holds which answers are right and not the answers, which "
                f"{purpose} needs: import it with --predictions."
            )
        unknown = torch.zeros(len(self)) if self.score is None else self.score
        return RecordedAnswers(self.prediction, unknown)

    def cost(self, unit: str = "flops") -> Tensor:
        """Cost of each sample in a unit, (N,) float64.

        Raises:
            CascadeError: a unit that the record does not hold; the message lists those it holds.
        """
        if unit not in self.costs:
            raise CascadeError(
                f"record {self.name!r} has no cost {unit!r}; it has {', '.join(self.costs)}."
            )
        return self.costs[unit]

    def logits_for(self, purpose: str) -> tuple[Tensor, Tensor]:
        """Logits (N, C), and one label per sample (N,), for what needs both.

        Where several labels are right it is the one that the model finds likeliest.

        Raises:
            CascadeError: no logits or no labels; the message names the purpose.
        """
        if self.logits is None:
            held = "predictions" if self.knows_answers else "scores"
            raise CascadeError(
                f"record {self.name!r} holds {held} and no logits, which {purpose} needs."
            )
        if self.labels is None:
            raise CascadeError(f"record {self.name!r} holds no labels, which {purpose} needs.")
        return self.logits, likeliest_labels(self.logits, self.labels)

    def rows(self, rows: Tensor | Sequence[int]) -> Record:
        """The record of some of the samples, by their positions."""
        chosen = torch.as_tensor(rows)
        columns: dict[str, Any] = {name: getattr(self, name) for name in _COLUMNS}
        chosen = chosen.nonzero().squeeze(1) if chosen.dtype == torch.bool else chosen
        columns = {
            name: None if one is None else taken(one, chosen) for name, one in columns.items()
        }
        costs = {unit: cost[chosen] for unit, cost in self.costs.items()}
        return replace(self, ids=self.ids[chosen], costs=costs, **columns)

    def with_dtype(self, dtype: str) -> Record:
        """The same record with logits in `float16` or `float32`.

        Raises:
            CascadeError: no logits, or logits too large for float16.
        """
        if self.logits is None:
            raise CascadeError(f"record {self.name!r} holds no logits to convert.")
        kind, classes = getattr(torch, dtype), self.logits.shape[1]
        if kind == self.logits.dtype:
            return self
        logits, start, largest = torch.empty(self.logits.shape, dtype=kind), 0, 0.0
        for block in row_slices(self.logits, max(1, _AT_ONCE // classes)):
            largest = max(largest, *map(abs, torch.stack(block.aminmax()).tolist()))
            logits[start : start + len(block)] = block
            start += len(block)
        check_dtype_range(largest, dtype, self.name)
        return replace(self, logits=logits)

    def save(self, path: Path | str) -> None:
        """Write the record, whole or not at all.

        Raises:
            UsageError: a place that cannot be written to.
        """
        write_atomically(Path(path), self.pieces())

    def to_bytes(self) -> bytes:
        """Content of the record's file; the same for the same record."""
        return b"".join(self.pieces())

    def pieces(self) -> list[bytes | memoryview]:
        """Content of the record's file in pieces, of which those of tensors are no copies."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        tensors = {name: column for name, column in columns.items() if column is not None}
        # of predictions, ids would be most of the file
        if self.prediction is None or not self.ids.are_positions:
            tensors |= self.ids.to_tensors()
        tensors |= {name: _narrow(tensors[name]) for name in _WHOLE if name in tensors}
        constant: dict[str, float | None] = {}
        for unit, cost in self.costs.items():
            varies = bool((cost != cost[0]).any())
            constant[unit] = None if varies else float(cost[0])  # one number stands for all
            if varies:
                tensors[unit] = cost
        header = {
            "format": FORMAT,
            "name": self.name,
            "classes": json.dumps(self.classes, separators=(",", ":")),  # there may be many
            "costs": json.dumps(constant),
            "parameters": str(self.parameters),
            "fingerprint": self.samples.fingerprint,
            **{part: json.dumps(dict(getattr(self, part))) for part in _DETAILS},
        }
        return safetensors_pieces(tensors, header)

    @classmethod
    def load(cls, path: Path | str) -> Record:
        """Read a record file. Its logits stay there until they are read, block by block.

        Raises:
            UsageError: no such file.
            CascadeError: a file that is not a record, or is damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"records: there is no file {str(path)!r}.")
        with opened(path) as (file, header):
            check_format(path, header)
            tensors = {
                key: _logits(path, file) if key == "logits" else _wide(file.get_tensor(key), key)
                for key in file.keys()  # noqa: SIM118
            }
            classes, costs = json.loads(header["classes"]), json.loads(header["costs"])
            numbers = (int, float, type(None))
            if not isinstance(costs, dict) or any(type(c) not in numbers for c in costs.values()):
                raise ValueError("its table of costs is malformed")
            if "prediction" in tensors and not {"ids", "ids_utf8"} & set(tensors):
                ids = Ids.of(None, len(tensors["prediction"]))
            else:
                ids = Ids.from_tensors(tensors)
            parts: dict[str, Any] = {name: tensors.get(name) for name in _COLUMNS}
            parts |= {part: json.loads(header[part]) for part in _DETAILS}
            record = cls(
                name=header["name"],
                ids=ids,
                costs={
                    unit: tensors[unit] if cost is None else _per_sample(float(cost), len(ids))
                    for unit, cost in costs.items()
                },
                classes=tuple(classes if isinstance(classes, list) else ()),
                parameters=int(header["parameters"]),
                **parts,
            )
            if record.samples.fingerprint != header["fingerprint"]:
                raise CascadeError(
                    f"records: {str(path)!r} is damaged: its ids, labels or classes do not fit "
                    "its fingerprint."
                )
        return record


RecordLike = Record | Path | str
"""A record, or the path of its file."""


def load_records(records: Sequence[RecordLike]) -> list[Record]:
    """Records of the stages of a cascade, read from their files where paths are given.

    Args:
        records: of two or more models on the same samples, cheapest first.

    Raises:
        UsageError: too few records, repeated names, a missing file, or something else.
        CascadeError: a damaged file, or records of different samples.
    """
    if isinstance(records, Record | Path | str) or not isinstance(records, Sequence):
        kind = repr(records) if isinstance(records, str) else type(records).__name__
        raise UsageError(
            f"records: expected a list of records or their files, cheapest first; got {kind}."
        )
    for record in records:
        if not isinstance(record, Record | Path | str):
            raise UsageError(
                "records: expected records or their files, got "
                f"{type(record).__name__}; Record.from_arrays makes one of logits and labels."
            )
    loaded = [one if isinstance(one, Record) else Record.load(one) for one in records]
    check_alike(loaded)
    return loaded


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """Open a safetensors file, with the strings of its header.

    Raises:
        CascadeError: a file that cannot be read, or contents that cannot be parsed inside.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file, dict(file.metadata() or {})
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


def _logits(path: Path, file: Any) -> Tensor:
    """Logits of an opened record, in their file; of a malformed one, as they are."""
    rows = file.get_slice("logits")
    dtype = {"F16": torch.float16, "F32": torch.float32}.get(rows.get_dtype())
    if dtype is None or 0 in rows.get_shape():
        tensor: Tensor = file.get_tensor("logits")
        return tensor
    return mapped_tensor(path, "logits", dtype)


def _narrow(numbers: Tensor) -> Tensor:
    """Whole numbers in the narrowest type that holds them."""
    low, high = map(int, numbers.aminmax())
    fits = (one for one in _NARROW if torch.iinfo(one).min <= low and high <= torch.iinfo(one).max)
    return numbers.to(next(fits, torch.int64))


def _wide(column: Tensor, name: str) -> Tensor:
    """A column of a file as records hold it: whole numbers as int64."""
    return column.long() if name in _WHOLE and column.dtype in _NARROW else column


def check_format(path: Path, header: Mapping[str, str], hint: str = "") -> None:
    """Check that a safetensors file is a record.

    Raises:
        CascadeError: a file of another format; the message ends with the hint.
    """
    found = header.get("format")
    if found == FORMAT:
        return
    if re.fullmatch(FORMAT.replace("1", r"\d+"), found or ""):
        raise CascadeError(
            f"records: {str(path)!r} was written by a newer version: its format is {found!r}, and "
            f"this version reads {FORMAT!r}; upgrade lit-cascade."
        )
    raise CascadeError(
        f"records: {str(path)!r} is not a record: its header says format {found!r}, expected "
        f"{FORMAT!r}.{hint}"
    )


def _per_sample(cost: Any, n: int) -> Tensor:
    """A cost as (N,) float64, from one number or N of them."""
    numbers = torch.as_tensor(cost, dtype=torch.float64)
    return numbers.expand(n).contiguous() if numbers.ndim == 0 else numbers


def _check_column(column: Tensor | None, dtype: torch.dtype, n: int, what: str) -> None:
    """Check type, shape (N,) and values: +inf would answer at a threshold that always defers."""
    if column is None:
        return
    if column.dtype != dtype or column.shape != (n,) or not bool((column < math.inf).all()):
        raise CascadeError(
            f"{what} must be {counted(n, 'value')}, none of them NaN or +inf, one per sample, "
            f"got {column.dtype} of shape {tuple(column.shape)}."
        )


def _check_costs(costs: Mapping[str, Tensor], n: int, what: str) -> None:
    """Check that costs are finite, at least 0, one per sample, and have names for tensors."""
    if not costs:
        raise CascadeError(f"{what}: needs a cost per sample, such as flops.")
    for unit, cost in costs.items():
        if not unit.isidentifier() or unit in _RESERVED:
            raise CascadeError(
                f"{what}: {unit!r} cannot name a cost: expected letters, digits and underscores, "
                f"such as latency_s, and none of {', '.join(sorted(_RESERVED))}."
            )
        got = None
        if cost.dtype != torch.float64 or cost.shape != (n,):
            got = f"{cost.dtype} of shape {tuple(cost.shape)}"
        elif len(wrong := cost[~(cost.isfinite() & (cost >= 0))]):
            got = f"{wrong[0]:g}"
        if got is not None:
            raise CascadeError(
                f"{what}: {unit} must be {n} finite numbers of at least 0, one per sample, got "
                f"{got}."
            )


def _check_details(data: Mapping[str, Any], model: Mapping[str, Any], what: str) -> None:
    """Check the types of those details that are read: the others are of whoever wrote them."""
    pairs = data.get("left_out") or []
    remarks, findings = data.get("remarks") or {}, data.get("findings") or []
    known = model.get("known_classes", 0)
    sound = {
        "data.left_out": isinstance(pairs, Sequence)
        and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs),
        "data.remarks": isinstance(remarks, Mapping)
        and all(isinstance(count, int) for count in remarks.values()),
        "data.findings": isinstance(findings, Sequence),
        "model.known_classes": isinstance(known, int),
    }
    for name, well_formed in sound.items():
        if not well_formed:
            raise CascadeError(f"{what}: {name} is malformed.")


def check_dtype_range(largest: float, dtype: str, name: str) -> None:
    """Check that a type can hold logits.

    Args:
        largest: largest magnitude of the logits.
        dtype: `float16` or `float32`.
        name: of the model, for the message.

    Raises:
        CascadeError: logits too large for float16.
    """
    limit = torch.finfo(torch.float16).max
    if dtype == "float16" and largest > limit:
        raise CascadeError(
            f"record {name!r}: float16 holds logits up to {limit:.0f}, and these reach "
            f"{largest:.6g}; use --dtype float32."
        )


def check_alike(records: Sequence[Record]) -> None:
    """Check that records are of the same samples, labels and classes, in the same order.

    Args:
        records: of two or more models.

    Raises:
        UsageError: too few records, or repeated names.
        CascadeError: different samples; the message names two records and the first difference.
    """
    if len(records) < 2:
        raise UsageError(f"records: a cascade needs at least 2 stages, got {len(records)}.")
    names = [record.name for record in records]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"records: the name {twice[0]!r} occurs twice; names tell stages apart.")
    one = records[0]
    for other in records[1:]:
        one.samples.check_same(other.samples, one.name, other.name)


def stage_answers(record: Record, policy: Policy, stage: int) -> tuple[Tensor, Tensor]:
    """Confidence and correctness of a stage on every sample, without what other stages say.

    Args:
        record: of the stage's model.
        policy: its score, and the calibration of the logits.
        stage: position of the stage in the policy.

    Returns:
        Scores (N,) float32 and correctness (N,) bool.

    Raises:
        CascadeError: answers without labels; calibration of a record without logits.
    """
    if record.knows_answers and record.labels is not None:
        judged = policy.judge(stage, record.output("a score"))  # scores and answers in one pass
        return judged.score, is_right(judged.answer, record.labels)
    if record.knows_answers:
        raise CascadeError(
            f"record {record.name!r} holds no labels, so which answers are right is unknown."
        )
    if stage < len(policy.heads):
        record.output("a learned score")
    if stage < len(policy.norms):
        record.logits_for(f"the score {policy.score}")
    if policy.temperatures[stage] != 1.0:
        record.logits_for("a temperature")
    if record.score is None or record.correct is None:  # ruled out by the class; for types
        raise CascadeError(f"record {record.name!r} holds neither answers nor scores.")
    return record.score, record.correct


def score_and_correct(
    record: Record,
    score: str = "max_softmax",
    temperature: float = 1.0,
    norm: Norm | None = None,
) -> tuple[Tensor, Tensor]:
    """Confidence and correctness of one model on every sample.

    Args:
        record: with logits, or with a score of its own.
        score: a name in `lit_cascade.core.scores.SCORES`; ignored for a record without logits,
            whose own score it is, or 0 where it has none. Or `max_logit_pnorm`.
        temperature: divisor of the logits.
        norm: of the score `max_logit_pnorm`.

    Returns:
        Scores (N,) float32 and correctness (N,) bool.

    Raises:
        CascadeError: a temperature or a norm for a record without logits.
    """
    norms = () if norm is None else (norm,)
    rule = Policy(score=score, temperatures=(temperature, 1.0), norms=norms)
    return stage_answers(record, rule, 0)
