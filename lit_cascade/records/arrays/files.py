"""Arrays from files of other frameworks; no code in a file is ever run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from safetensors.torch import load_file
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.utilities.tensors import load_tensors

__all__ = ["Column", "read_column", "read_matrix", "read_names"]

Column = Tensor | tuple[str, ...]
"""One value per sample: numbers (N,), or N strings."""

_MATRICES = (".npy", ".npz", ".csv", ".parquet", ".safetensors", ".pt")
_COLUMNS = (*_MATRICES, ".txt")
_INDEX = "__index_level_"  # pandas' name of an unnamed index in a Parquet file
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}")
_PADDED = re.compile(r"0\d+")  # 007 is a name


def read_matrix(text: str, argument: str) -> tuple[Tensor, tuple[str, ...]]:
    """Read numbers (N, C) from `FILE`, `FILE:NAME` or `FILE:COLUMN,COLUMN`.

    Args:
        text: value of the argument.
        argument: its name for messages.

    Returns:
        The numbers, and the names of their columns, if the file has any.

    Raises:
        UsageError: no such file, or it is ambiguous what in it is meant.
        CascadeError: a file that cannot be read, or holds something else.
    """
    path, picked = _file(text, argument, _MATRICES)
    values, names = _read(path, picked, argument, several=True)
    if not isinstance(values, Tensor):
        raise CascadeError(f"{argument}: expected numbers, and {path.name!r} holds text.")
    if values.ndim != 2:
        raise CascadeError(
            f"{argument}: expected shape (samples, classes), got {tuple(values.shape)}."
        )
    return values, names


def read_column(text: str, argument: str) -> Column:
    """Read one value per sample from `FILE`, `FILE:NAME` or `FILE:COLUMN`, or lines of a .txt.

    Raises:
        UsageError: as for `read_matrix`.
        CascadeError: as for `read_matrix`.
    """
    path, picked = _file(text, argument, _COLUMNS)
    values, _ = _read(path, picked, argument, several=False)
    if isinstance(values, Tensor) and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if isinstance(values, Tensor) and values.ndim != 1:
        raise CascadeError(
            f"{argument}: expected one value per sample, got shape {tuple(values.shape)}."
        )
    return values


def read_names(text: str, argument: str) -> tuple[str, ...]:
    """Read names from any kind of column; numbers become text.

    Raises:
        UsageError: as for `read_matrix`.
        CascadeError: as for `read_matrix`.
    """
    path, picked = _file(text, argument, _COLUMNS)
    if path.suffix == ".txt":
        return _lines(path, argument)
    values, _ = _read(path, picked, argument, several=False)
    return tuple(map(str, values.tolist())) if isinstance(values, Tensor) else values


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
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):  # numpy goes by the content, not by the name
            raise CascadeError(f"{argument}: {path.name!r} holds several arrays: call it .npz.")
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
    return torch.from_numpy(np.array(native))


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


def _read_frame(
    path: Path, picked: str | None, argument: str, *, several: bool
) -> tuple[Any, tuple[str, ...]]:
    """Read columns of a .csv with a header row, or of a .parquet.

    Args:
        path: of the file.
        picked: names of columns, separated by commas; None for all.
        argument: for messages.
        several: whether more than one column may be meant.

    Returns:
        Values (N,) of one column, or (N, C) if `several`, and the names of the columns. One column
        of lists is (N, C) without names.

    Raises:
        UsageError: it is ambiguous which columns are meant.
        CascadeError: a file that cannot be read, or has empty cells.
    """
    try:
        table = pa.csv.read_csv(path) if path.suffix == ".csv" else pa.parquet.read_table(path)
        names = [name for name in table.column_names if not name.startswith(_INDEX)]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, argument, _first_line(error).rstrip(".")) from error
    _check_header(names, path, argument)
    chosen = _chosen(names, picked, path, argument, several=several)
    columns = [_values(table.column(name), name, argument) for name in chosen]
    if not several or (len(columns) == 1 and columns[0].ndim == 2):
        return columns[0], ()
    for name, column in zip(chosen, columns, strict=True):
        if column.dtype.kind not in "biuf" or column.ndim != 1:
            raise CascadeError(
                f"{argument}: column {name!r} of {path.name!r} holds no numbers; "
                f"pick those that do as {path.name}:{','.join(chosen[:2])},..."
            )
    return np.stack(columns, axis=1), tuple(chosen)


def _check_header(names: Sequence[str], path: Path, argument: str) -> None:
    twice = [name for name in names if names.count(name) > 1]
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
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
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
