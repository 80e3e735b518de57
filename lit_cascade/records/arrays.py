"""Parts of a record from `FILE`, `FILE:NAME` or `FILE:COLUMN` that other frameworks wrote.

All functions raise UsageError if the file does not exist or does not show which part is meant, and
CascadeError if it cannot be read or has other contents. No code in a file is ever run.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
import torch
from safetensors.torch import load_file
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError, check_name, nearest
from lit_cascade.records.samples import whole_numbers
from lit_cascade.utilities.class_names import CLASS_LISTS, class_list, numbers_among
from lit_cascade.utilities.mapped import mapped_numbers, row_slices
from lit_cascade.utilities.tensors import load_tensors
from lit_cascade.utilities.text import from_cell
from lit_cascade.utilities.units import counted

Column = Tensor | tuple[str, ...]
"""One value per sample: numbers (N,), or N strings."""

_LOG_FLOOR = float(torch.finfo(torch.float32).tiny)
"""Lower bound of probabilities before the logarithm, which is then at least -87.3."""

_TOLERANCE = 1e-2
"""Largest deviation from 1 of a row of probabilities; allows for three decimals of ten classes."""

_BLOCK_ELEMENTS = 2**20

_OWN_CLASS = " An answer that is none of the classes needs one of its own in --classes."

_TRUTH = {"0": 0, "1": 1, "false": 0, "true": 1}

_MATRICES = (".npy", ".npz", ".csv", ".parquet", ".safetensors", ".pt")
_COLUMNS = (*_MATRICES, ".txt")
_MOST_COLUMNS = 100_000
"""Columns of a .csv; pyarrow takes 10 kB of memory for each, before any number."""
_INDEX = "__index_level_"  # pandas' name of an unnamed index in a Parquet file
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}")
_PADDED = re.compile(r"0\d+")  # 007 is a name


def logits_from(text: str) -> tuple[Tensor, tuple[str, ...], list[str]]:
    """Logits of any real type.

    Returns:
        Logits (N, C), the names of their columns if the file has any, and notes for the user.

    Raises:
        CascadeError: NaN, or numbers beyond float32.
    """
    logits, names = _read_matrix(text, "--logits")
    notes = []
    if _improbable(logits) is None:
        notes.append(
            "Note: every row of --logits is from 0 to 1 and sums to 1, as probabilities do. They "
            "are taken as logits; if they are probabilities, give them as --probabilities."
        )
    return logits, names, notes


def probabilities_from(text: str) -> tuple[Tensor, tuple[str, ...], list[str]]:
    """Class probabilities as logits: their logarithms, whose softmax they are.

    Those of uint8 are multiples of 1/256, as 8-bit models give them. What a row lacks to 1 was
    rounded away from its zeros, and is divided among these.

    Returns:
        Logits (N, C) float32, the names of their columns if the file has any, and notes.

    Raises:
        CascadeError: numbers outside [0, 1], or rows that do not sum to 1.
    """
    probabilities, names = _read_matrix(text, "--probabilities")
    notes = []
    if probabilities.dtype == torch.uint8:
        notes.append("Note: whole numbers of 8 bits are probabilities in steps of 1/256.")
        probabilities = _dequantised(probabilities)
    reason = _improbable(probabilities)
    if reason is not None:
        raise CascadeError(
            f"--probabilities: {reason}. If these are logits, give them as --logits."
        )
    zeros = 0
    logits = torch.empty(probabilities.shape)
    for rows, some in _blocks(probabilities):
        zeros += int((some < _LOG_FLOOR).sum())
        logits[rows] = some.double().clamp_min_(_LOG_FLOOR).log_().float()
    if zeros:
        notes.append(
            f"Note: {zeros:,} probabilities are 0; their logarithm is taken as "
            f"{math.log(_LOG_FLOOR):.1f}."
        )
    return logits, names, notes


def _dequantised(numbers: Tensor) -> Tensor:
    """Multiples of 1/256, (N, C), as probabilities.

    A zero was less than 1/512, so that zeros never get more than that each. Rows that sum to more
    than 1 are divided by their sum, as far as rounding up explains it.
    """
    probabilities = torch.empty(numbers.shape)
    for rows, some in _blocks(numbers):
        block = some.float() / 256
        missing, zero = 1 - block.sum(dim=1, keepdim=True), some == 0
        share = (missing.clamp_min(0) / zero.sum(dim=1, keepdim=True)).clamp_max(1 / 512)
        most = (~zero).sum(dim=1, keepdim=True) / 512
        block /= torch.where((missing < 0) & (-missing <= most), 1 - missing, 1.0)
        probabilities[rows] = torch.where(zero, share, block)
    return probabilities


def _improbable(numbers: Tensor) -> str | None:
    """Why rows cannot be probabilities; None if they can."""
    wrong_sum = None
    for rows, some in _blocks(numbers):
        outside = ((some < 0) | (some > 1 + 1e-6)).nonzero()
        if len(outside):
            row, column = outside[0].tolist()
            return (
                f"expected numbers from 0 to 1, got {float(some[row, column]):.6g} in row "
                f"{rows.start + row}, column {column}"
            )
        sums = some.double().sum(dim=1)
        off = ((sums - 1).abs() > _TOLERANCE).nonzero()
        if len(off) and wrong_sum is None:
            row = int(off[0, 0])
            wrong_sum = (
                f"expected rows that sum to 1, got {float(sums[row]):.6g} in row {rows.start + row}"
            )
    return wrong_sum


def _blocks(matrix: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of a matrix (N, C), and their places: what is computed of them stays small."""
    start = 0
    for block in row_slices(matrix, max(1, _BLOCK_ELEMENTS // max(1, matrix.shape[1]))):
        yield slice(start, start + len(block)), block
        start += len(block)


def labels_from(text: str, classes: Sequence[str] | None, n: int | None) -> Tensor:
    """True classes, from numbers or from names of classes.

    Args:
        text: file of numbers or names, or a column of lists of them in a .parquet.
        classes: names in logit order, if known.
        n: number of samples, if known.

    Returns:
        Shape (N,); of lists (N, M), filled up with -1.

    Raises:
        UsageError: names, but no `classes`.
        CascadeError: an unknown name, booleans, or another number of labels than of samples.
    """
    path, picked = _file(text, "--labels", _COLUMNS)
    if path.suffix == ".parquet":
        table = Table(path, "--labels")
        name = _chosen(table.names, picked, path, "--labels", several=False)[0]
        labels = table.labels(name, classes)
    else:
        labels = class_numbers(_read_column(text, "--labels"), classes, "--labels")
    if n is not None:
        _check_length(labels, "--labels", n)
    return labels


def predictions_from(text: str, classes: Sequence[str] | None) -> Tensor:
    """Classes that a model answers, (N,), from numbers or from names of classes.

    Raises:
        UsageError: names, but no `classes`.
        CascadeError: an unknown name, or booleans.
    """
    return class_numbers(_read_column(text, "--predictions"), classes, "--predictions")


def class_numbers(
    column: Column, classes: Sequence[str] | None, argument: str, rows: Sequence[int] | None = None
) -> Tensor:
    """Numbers of classes, (N,), as they are or from names.

    Names that differ from a class in case or separators only are that class.

    Args:
        column: numbers or names.
        classes: names in label order, if known.
        argument: `--labels` or `--predictions`, and what else tells the column from others.
        rows: rows of the values in their file, if several share one.

    Raises:
        UsageError: names, but no `classes`.
        CascadeError: names that are no classes, or booleans.
    """
    if isinstance(column, Tensor):
        if column.dtype == torch.bool:
            raise CascadeError(
                f"{argument}: expected whole numbers or names of classes, got true and false; "
                "whether answers are right is --correct."
            )
        return whole_numbers(column, argument)
    if not classes:
        raise UsageError(
            f"{argument}: they are names, such as {column[0]!r}; give --classes, one name per line "
            "in the order of the logits or of your choice."
        )
    distinct = dict.fromkeys(column)
    number = numbers_among(list(distinct), classes)
    unknown = distinct.keys() - number.keys()
    if unknown:
        places = [place for place, name in enumerate(column) if name in unknown]
        first, row = column[places[0]], places[0] if rows is None else rows[places[0]]
        more = f", nor are {len(places) - 1:,} others" if len(places) > 1 else ""
        alike = nearest(first, classes, 1, like=0.6)
        some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise CascadeError(
            f"{argument}: {first!r} in row {row} is none of the "
            f"{counted(len(classes), 'class')} ({some}){more}."
            + (f" Did you mean {alike[0]!r}?" if alike else "")
            + (_OWN_CLASS if argument.startswith("--predictions") else "")
        )
    return torch.tensor([number[name] for name in column])


def renumbered(
    prediction: Tensor, known: Sequence[str], classes: Sequence[str], who: str
) -> Tensor:
    """Predictions of a model that numbers its classes in another way, by the names of these.

    Args:
        prediction: numbers of classes as the model counts them, (N,).
        known: the model's classes in its own order.
        classes: names in label order.
        who: argument and model, for messages.

    Raises:
        CascadeError: predictions that are no number or no name among the classes.
    """
    check_within(prediction, len(known), who)
    number = numbers_among(known, classes)
    if not number:
        raise CascadeError(
            f"{who}: its classes ({', '.join(known[:3])}, ...) and --classes "
            f"({', '.join(classes[:3])}, ...) have no name in common; write the same names in both "
            "files, in any order."
        )
    table = torch.tensor([number.get(name, -1) for name in known])
    answers = table[prediction]
    lost = (answers < 0).nonzero().flatten()
    if len(lost):
        name = known[int(prediction[lost[0]])]
        alike = nearest(name, classes, 1, like=0.6)
        raise CascadeError(
            f"{who}: {counted(len(lost), 'answer')} of none of the {len(classes)} classes, first "
            f"{name!r} in row {int(lost[0])}."
            + (f" Did you mean {alike[0]!r}?" if alike else "")
            + _OWN_CLASS
        )
    return answers


def check_within(prediction: Tensor, classes: int, who: str) -> None:
    """Check that predictions are numbers of classes.

    Raises:
        CascadeError: others, with their number and the first of them.
    """
    wrong = ((prediction < 0) | (prediction >= classes)).nonzero().flatten()
    if len(wrong):
        raise CascadeError(
            f"{who}: {counted(len(wrong), 'answer')} outside the {classes} classes (0 to "
            f"{classes - 1}), first {int(prediction[wrong[0]])} in row {int(wrong[0])}.{_OWN_CLASS}"
        )


def score_from(text: str, n: int | None = None) -> Tensor:
    """Confidence of a model, (N,), larger is surer.

    Raises:
        CascadeError: text, or another number of scores than of samples.
    """
    score = numbers(_read_column(text, "--score"), "--score")
    if n is not None:
        _check_length(score, "--score", n)
    return score


def correct_from(text: str, n: int) -> Tensor:
    """Correctness of answers, (N,), from 0 and 1 or from true and false.

    Raises:
        CascadeError: other values, or another number of them than of samples.
    """
    correct = _column(text, "--correct", n)
    if isinstance(correct, tuple):
        other: list[Any] = [word for word in correct if word.lower() not in _TRUTH]
        correct = torch.tensor([_TRUTH.get(word.lower(), -1) for word in correct])
    else:
        other = correct[(correct != 0) & (correct != 1)].tolist()
    if other:
        raise CascadeError(f"--correct: expected 0 and 1, or true and false, got {other[0]!r}.")
    return correct


def costs_from(flops: str | None, others: Sequence[str] | None, n: int) -> dict[str, Any]:
    """Costs per sample, by unit: one number, or a tensor (N,).

    Args:
        flops: a number or a file.
        others: `UNIT=NUMBER` or `UNIT=FILE`.
        n: number of samples.

    Raises:
        UsageError: no cost, one unit twice, or neither a number nor a file.
        CascadeError: another number of costs than of samples.
    """
    costs: dict[str, Any] = {}
    for unit, value, argument in given_costs(flops, others):
        try:
            costs[unit] = float(value)
        except ValueError:
            costs[unit] = _cost_column(value, argument, n)
    return costs


def given_costs(flops: str | None, others: Sequence[str] | None) -> list[tuple[str, str, str]]:
    """Unit, value and argument of each cost that is given.

    Raises:
        UsageError: no cost, one without a unit or a value, or one unit twice.
    """
    given = [] if flops is None else [("flops", flops, "--flops")]
    for text in others or ():
        unit, _, value = text.partition("=")
        if not unit or not value:
            raise UsageError(
                f"--cost: expected NAME=NUMBER or NAME=FILE, such as usd=0.002, got {text!r}."
            )
        given.append((unit, value, f"--cost {unit}"))
    if not given:
        raise UsageError(
            "--flops: a record needs the cost of a sample: FLOPs (one multiply-add is 2) as a "
            "number such as 8.11e7 or as a file, or --cost NAME=NUMBER in another unit."
        )
    for place, (unit, _, argument) in enumerate(given):
        if unit in (one for one, _, _ in given[:place]):
            raise UsageError(f"{argument}: the cost {unit!r} is given twice.")
    return given


def _cost_column(text: str, argument: str, n: int) -> Tensor:
    try:
        return numbers(_column(text, argument, n), argument)
    except UsageError as error:
        raise UsageError(f"{error} It is no number either, such as 8.11e7.") from error


def ids_from(text: str, n: int) -> Column:
    """Ids of the samples, (N,) numbers or strings.

    Raises:
        CascadeError: another number of ids than of samples, or repeated ids.
    """
    return check_ids(_column(text, "--ids", n))


def check_ids(ids: Column) -> Column:
    """The ids, if they tell samples apart.

    Raises:
        CascadeError: repeated ids.
    """
    values = ids.tolist() if isinstance(ids, Tensor) else ids
    _check_distinct(values, "--ids: {} occurs {} times; ids tell samples apart.")
    return ids


def classes_from(text: str, width: int | None, argument: str = "--classes") -> tuple[str, ...]:
    """Class names in logit order.

    Args:
        text: file with one name per line, or a column; the number of classes; or the name of a
            list, such as imagenet-1k.
        width: number of classes, if known.
        argument: name of the argument, for messages.

    Raises:
        CascadeError: another number of names, or repeated names.
    """
    if text.isdecimal() and not Path(text).exists():
        if not 2 <= int(text) <= _MOST_COLUMNS:
            raise UsageError(f"{argument}: expected two or more classes, got {text}.")
        return _of_width(tuple(map(str, range(int(text)))), width)
    if text in CLASS_LISTS:
        return _of_width(class_list(text, argument), width)
    path, picked = _file(text, argument, _COLUMNS)
    if path.suffix == ".txt":
        values: Column = _lines(path, argument)  # numbers stay as they are written
    else:
        values, _ = _read(path, picked, argument, several=False)
    classes = tuple(map(str, values.tolist())) if isinstance(values, Tensor) else values
    _check_distinct(classes, argument + ": {} occurs {} times; names tell classes apart.")
    return _of_width(classes, width)


def _of_width(classes: tuple[str, ...], width: int | None) -> tuple[str, ...]:
    if width is not None and len(classes) != width:
        raise CascadeError(
            f"--classes: {counted(len(classes), 'name')} for logits of {counted(width, 'class')}; "
            "expected one each."
        )
    return classes


def _column(text: str, argument: str, n: int) -> Column:
    column = _read_column(text, argument)
    _check_length(column, argument, n)
    return column


def _check_length(column: Column, argument: str, n: int) -> None:
    if len(column) != n:
        raise CascadeError(
            f"{argument}: {counted(len(column), 'value')} for {counted(n, 'sample')}; expected one "
            "each."
        )


def numbers(column: Column, argument: str) -> Tensor:
    """A column of numbers.

    Raises:
        CascadeError: a column of text.
    """
    if isinstance(column, tuple):
        raise CascadeError(f"{argument}: expected numbers, got {column[0]!r}.")
    return column


def _check_distinct(values: Sequence[Any], message: str) -> None:
    value, times = Counter(values).most_common(1)[0]
    if times > 1:
        raise CascadeError(message.format(repr(value), times))


def _read_matrix(text: str, argument: str) -> tuple[Tensor, tuple[str, ...]]:
    """Finite numbers (N, C), and the names of their columns, if the file has any."""
    path, picked = _file(text, argument, _MATRICES)
    values, names = _read(path, picked, argument, several=True)
    if not isinstance(values, Tensor):
        raise CascadeError(f"{argument}: expected numbers, and {path.name!r} holds text.")
    if values.ndim != 2:
        raise CascadeError(
            f"{argument}: expected shape (samples, classes), got {tuple(values.shape)}."
        )
    finite = [some.float().isfinite().all(dim=1) for _, some in _blocks(values)]
    wrong = (~torch.cat([torch.ones(0).bool(), *finite])).nonzero()
    if len(wrong):
        raise CascadeError(
            f"{argument}: numbers that are NaN, infinite or too large for float32 in {len(wrong)} "
            f"of {counted(len(values), 'row')}, first in row {int(wrong[0, 0])}."
        )
    return values, names


def _read_column(text: str, argument: str) -> Column:
    """One value per sample: an array, a column, or the lines of a .txt."""
    path, picked = _file(text, argument, _COLUMNS)
    values, _ = _read(path, picked, argument, several=False)
    if isinstance(values, Tensor) and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if isinstance(values, Tensor) and values.ndim != 1:
        raise CascadeError(
            f"{argument}: expected one value per sample, got shape {tuple(values.shape)}."
        )
    return values


def _file(text: str, argument: str, suffixes: Sequence[str]) -> tuple[Path, str | None]:
    """Split a value into a file and a name in it; paths may hold colons."""
    parts = text.split(":")
    for end in range(len(parts), 0, -1):
        path = Path(":".join(parts[:end])).expanduser()
        if path.is_file():
            break
    else:
        raise UsageError(f"{argument}: there is no file {parts[0]!r}.")
    if path.suffix not in suffixes:
        raise UsageError(
            f"{argument}: expected a file {', '.join(suffixes[:-1])} or {suffixes[-1]}, "
            f"got {path.name!r}."
        )
    return path, ":".join(parts[end:]) or None


def _read(
    path: Path, picked: str | None, argument: str, *, several: bool
) -> tuple[Column, tuple[str, ...]]:
    if path.suffix in {".csv", ".parquet"}:
        values, names = _read_frame(path, picked, argument, several=several)
        return _as_column(values, argument), names
    if path.suffix in {".npy", ".txt"} and picked is not None:
        raise UsageError(f"{argument}: {path.name!r} holds one array; leave out {f':{picked}'!r}.")
    if path.suffix == ".txt":
        return _numbers_if_possible(_lines(path, argument)), ()
    try:
        return _as_column(_array(path, picked, argument), argument), ()
    except CascadeError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are libraries
        reason = _first_line(error)
        if "pickle" in reason.lower():
            reason = "it holds Python objects, which could run code; save plain arrays of numbers"
        raise _unreadable(path, argument, reason) from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0]


def _unreadable(path: Path, argument: str, reason: object) -> CascadeError:
    return CascadeError(f"{argument}: {path.name!r} cannot be read: {reason}.")


def _array(path: Path, picked: str | None, argument: str) -> Any:
    if path.suffix == ".npy":
        # mapped, and what is written to it stays here: torch takes no read-only memory
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        if not isinstance(array, np.memmap):  # numpy goes by the content, not by the name
            raise CascadeError(f"{argument}: {path.name!r} holds several arrays: call it .npz.")
        plain = array.dtype.isnative and array.flags.c_contiguous and array.dtype.kind in "iuf"
        if plain and array.size and array.dtype.itemsize <= 8:
            kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
            return mapped_numbers(path, array.offset, array.shape, kind)
        return array
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[_pick(list(arrays.files), picked, path, argument)]
    if path.suffix == ".safetensors":
        tensors: Any = load_file(path)
    else:
        try:
            tensors = load_tensors(path)
        except CascadeError as error:
            raise _unreadable(path, argument, error) from error
        if isinstance(tensors, Tensor) and picked is None:
            return tensors
    if not isinstance(tensors, Mapping):
        raise CascadeError(f"{argument}: {path.name!r} holds neither a tensor nor tensors by name.")
    return tensors[_pick(list(map(str, tensors)), picked, path, argument)]


def _pick(names: Sequence[str], picked: str | None, path: Path, argument: str) -> str:
    """Name of the array that is picked, or of the only one."""
    if picked in names:
        return str(picked)
    if picked is None and len(names) == 1:
        return names[0]
    known = ", ".join(names) or "none"
    wrong = f"several arrays: {known}" if picked is None else f"no array {picked!r} among {known}"
    raise UsageError(
        f"{argument}: {path.name!r} holds {wrong}. "
        f"Pick one as {path.name}:{names[0] if names else 'NAME'}."
    )


def _as_column(values: Any, argument: str) -> Column:
    """Numbers as a tensor, text as a tuple."""
    if isinstance(values, Tensor):
        tensor = values.detach()
        return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    array = np.asarray(values)
    if array.dtype.kind in "US" and array.ndim == 1:
        return tuple(text.decode() if isinstance(text, bytes) else str(text) for text in array)
    if array.dtype.kind not in "biuf":
        raise CascadeError(f"{argument}: expected numbers or text, got an array of {array.dtype}.")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)  # torch reads no other
    return torch.from_numpy(np.require(native, requirements=["WRITEABLE"]))


def _lines(path: Path, argument: str) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise _unreadable(path, argument, error) from error
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines or "" in lines:
        where = f"line {lines.index('') + 1} is empty" if lines else "it is empty"
        raise CascadeError(f"{argument}: {path.name!r}: {where}; expected one value per line.")
    return tuple(lines)


def _numbers_if_possible(lines: tuple[str, ...]) -> Column:
    """Integers if every line is one as usually written, else numbers, else text."""
    if all(_WHOLE.fullmatch(line) for line in lines):
        return torch.tensor([int(line) for line in lines])
    if any(_PADDED.fullmatch(line) for line in lines):
        return lines
    try:
        return torch.tensor([float(line) for line in lines], dtype=torch.float64)
    except ValueError:
        return lines


class Table:
    """A .csv with a header row, or a .parquet, whose columns are read one at a time.

    Args:
        path: of the file.
        argument: name of the argument, for messages.

    Attributes:
        names: of the columns, without pandas' unnamed index.

    Raises:
        CascadeError: a file that cannot be read, or without names of columns.
    """

    def __init__(self, path: Path, argument: str) -> None:
        self.path, self.argument = path, argument
        self._csv = path.suffix == ".csv"
        try:
            self._source: Any = (
                _read_csv(path, argument) if self._csv else pa.parquet.ParquetFile(path)
            )
            schema = self._source.schema if self._csv else self._source.schema_arrow
            names = schema.names  # decoded only here
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _unreadable(path, argument, _first_line(error).rstrip(".")) from error
        self._types = dict(zip(names, schema.types, strict=True))
        self.names = [name for name in names if not name.startswith(_INDEX)]
        _check_header(self.names, path, argument)
        if not self.names:
            raise _unreadable(path, argument, "it has no columns")

    @classmethod
    def of(cls, text: str, argument: str) -> Table:
        """The table that an argument names.

        Raises:
            UsageError: no such file, or one of another kind.
        """
        path, picked = _file(text, argument, (".csv", ".parquet"))
        if picked is not None:
            raise UsageError(f"{argument}: expected a file alone; leave out {f':{picked}'!r}.")
        return cls(path, argument)

    def __len__(self) -> int:
        return int(self._source.num_rows if self._csv else self._source.metadata.num_rows)

    def holds(self, name: str) -> str:
        """What the cells of a column are: `integers`, `numbers`, `text`, `lists` or `others`."""
        types, kind = pa.types, self._types[name]
        kind = kind.value_type if types.is_dictionary(kind) else kind
        tests = {
            "integers": types.is_integer,
            "numbers": types.is_floating,
            "text": lambda one: types.is_string(one) or types.is_large_string(one),
            "lists": _is_list,
        }
        return next((name for name, test in tests.items() if test(kind)), "others")

    def cells(self, name: str, argument: str) -> Any:
        """A column as pyarrow reads it."""
        try:
            return self._source[name] if self._csv else self._source.read([name])[name]
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.path, argument, _first_line(error).rstrip(".")) from error

    def array(self, name: str, argument: str) -> Any:
        """A column as an array of numbers or text; (N, C) if each cell is a list."""
        return _values(self.cells(name, argument), name, argument)

    def column(self, name: str, argument: str) -> Column:
        """A column of one number or text per sample.

        Raises:
            CascadeError: a column of something else, or with empty cells.
        """
        array = self.array(name, argument)
        if array.ndim != 1:
            raise CascadeError(f"{argument}: expected one value per sample, got {array.shape}.")
        if self._csv and array.dtype.kind == "U":
            return tuple(map(from_cell, array))
        return _as_column(array, argument)

    def labels(self, name: str, classes: Sequence[str] | None) -> Tensor:
        """A column of true classes: see `labels_from`."""
        if self.holds(name) != "lists":
            return class_numbers(self.column(name, "--labels"), classes, "--labels")
        cells = self.cells(name, "--labels")
        lengths = pa.compute.fill_null(pa.compute.list_value_length(cells), 0)
        count = torch.tensor(np.array(lengths), dtype=torch.int64)
        labels = torch.full((len(count), max([2, *count.tolist()])), -1)
        if int(count.sum()):
            flat = _as_column(_values(pa.compute.list_flatten(cells), name, "--labels"), "--labels")
            rows = torch.arange(len(count)).repeat_interleave(count).tolist()
            numbers = class_numbers(flat, classes, "--labels", rows)
            labels[torch.arange(labels.shape[1]) < count[:, None]] = numbers
        return labels


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _read_frame(
    path: Path, picked: str | None, argument: str, *, several: bool
) -> tuple[Any, tuple[str, ...]]:
    """Columns of a .csv with a header row, or of a .parquet, and their names.

    Values are (N,) of one column, or (N, C) if `several`. One column of lists is (N, C) without
    names.
    """
    table = Table(path, argument)
    chosen = _chosen(table.names, picked, path, argument, several=several)
    column = table.array(chosen[0], argument)
    if path.suffix == ".csv" and not several and column.dtype.kind == "U":
        return np.array([from_cell(text) for text in column]), ()
    if not several or (len(chosen) == 1 and column.ndim == 2):
        return column, ()
    # one column at a time: all of a large file beside their copy would take twice the memory
    matrix = np.empty((len(column), len(chosen)), column.dtype)
    for number, name in enumerate(chosen):
        column = table.array(name, argument)
        if column.dtype.kind not in "biuf" or column.ndim != 1:
            raise CascadeError(
                f"{argument}: column {name!r} of {path.name!r} holds no numbers; "
                f"pick those that do as {path.name}:{','.join(chosen[:2])},..."
            )
        matrix = matrix.astype(np.result_type(matrix, column), copy=False)
        matrix[:, number] = column
    return matrix, tuple(chosen)


def _read_csv(path: Path, argument: str) -> Any:
    """A table of a .csv whose rows may be longer than pyarrow's blocks, which hold 1 MB."""
    with path.open("rb") as file:
        columns = file.readline().count(b",") + 1
    if columns > _MOST_COLUMNS:
        raise CascadeError(
            f"{argument}: {path.name!r} has {columns:,} columns, and a .csv is read up to "
            f"{_MOST_COLUMNS:,}; write the numbers as .npy."
        )
    size, most = 2**20, 2**31 - 1
    while True:
        try:
            return pa.csv.read_csv(path, read_options=pa.csv.ReadOptions(block_size=size))
        except pa.ArrowInvalid as error:
            if "block" not in str(error) or size > min(path.stat().st_size, most - 1):
                raise
        size = min(8 * size, most)


def _check_header(names: Sequence[str], path: Path, argument: str) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise CascadeError(f"{argument}: {path.name!r} has two columns {twice[0]!r}.")
    if "" in names:
        raise CascadeError(
            f"{argument}: column {names.index('') + 1} of {path.name!r} has no name, as if it were "
            "an index; pick the others by name, or write the file without it."
        )
    counted = list(names) == [str(number) for number in range(len(names))]
    if path.suffix == ".csv" and not counted and all(map(_is_number, names)):
        raise CascadeError(
            f"{argument}: {path.name!r} has no header: its first row is {', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}. Add a row with the names of the columns."
        )


def _chosen(
    names: Sequence[str], picked: str | None, path: Path, argument: str, *, several: bool
) -> list[str]:
    chosen = list(names)
    if picked is not None:
        chosen = [picked] if picked in names else picked.split(",")  # a name may hold commas
        for name in chosen:
            check_name(name, names, f"{argument}: column of {path.name}")
    if not several and len(chosen) != 1:
        raise UsageError(
            f"{argument}: expected one column, and {path.name!r} has {', '.join(names)}. "
            f"Pick one as {path.name}:{names[0] if names else 'NAME'}."
        )
    return chosen


def _values(column: Any, name: str, argument: str) -> Any:
    """A column as an array of numbers or text; (N, C) if each cell is a list."""
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise CascadeError(
            f"{argument}: {column.null_count} cells of column {name!r} are empty, "
            f"first in row {row}."
        )
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        return _values(column.cast(kind.value_type), name, argument)
    if _is_list(kind):
        rows = column.to_pylist()
        if len({len(row) for row in rows}) != 1:
            raise CascadeError(f"{argument}: the lists of column {name!r} differ in length.")
        return np.array(rows, dtype=kind.value_type.to_pandas_dtype())
    if types.is_decimal(kind):
        return column.cast(pa.float64()).to_numpy()
    if types.is_string(kind) or types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=np.str_)
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise CascadeError(f"{argument}: column {name!r} holds {kind}, not numbers or text.")
    return column.to_numpy()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
