"""Arrays that other frameworks wrote, read from files; nothing in a file is ever run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records.arrays.frames import read_frame
from lit_cascade.utilities.tensors import load_tensors

__all__ = ["Column", "read_column", "read_matrix", "read_names"]

Column = Tensor | tuple[str, ...]
"""One value per sample: numbers (N,), or as many strings."""

_MATRICES = (".npy", ".npz", ".csv", ".parquet", ".safetensors", ".pt")
_COLUMNS = (*_MATRICES, ".txt")
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}")
_PADDED = re.compile(r"0\d+")  # 007 is a name


def read_matrix(text: str, argument: str) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers (N, C) from `FILE`, `FILE:NAME` or `FILE:COLUMN,COLUMN`.

    Args:
        text: what the user gave.
        argument: for messages.

    Returns:
        The numbers, and the names of their columns, if the file has any.

    Raises:
        UsageError: no such file, or it is not clear what in it is meant.
        CascadeError: it cannot be read, or holds something else.
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
    """One value per sample from `FILE`, `FILE:NAME` or `FILE:COLUMN`; a .txt has one per line.

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
    """Names as text, whatever kind of column they stand in.

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
    """The file and what is picked of it; a path may hold colons too."""
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
        values, names = read_frame(path, picked, argument, several=several)
        return _column(values, argument), names
    if path.suffix in {".npy", ".txt"} and picked is not None:
        raise UsageError(f"{argument}: {path.name!r} holds one array; leave out {f':{picked}'!r}.")
    if path.suffix == ".txt":
        return _numbers_if_possible(_lines(path, argument)), ()
    try:
        return _column(_array(path, picked, argument), argument), ()
    except CascadeError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are libraries
        reason = str(error).split("\n", maxsplit=1)[0]
        if "pickle" in reason.lower():
            reason = "it holds Python objects, which could run code; save plain arrays of numbers"
        raise CascadeError(f"{argument}: {path.name!r} cannot be read: {reason}.") from error


def _array(path: Path, picked: str | None, argument: str) -> Any:
    if path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):  # the format is told by the content
            raise CascadeError(f"{argument}: {path.name!r} holds several arrays: call it .npz.")
        return array
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[_one_of(list(arrays.files), picked, path, argument)]
    if path.suffix == ".safetensors":
        tensors: Any = load_file(path)
    else:
        try:
            tensors = load_tensors(path)
        except CascadeError as error:
            raise CascadeError(f"{argument}: {path.name!r} cannot be read: {error}.") from error
        if isinstance(tensors, Tensor) and picked is None:
            return tensors
    if not isinstance(tensors, Mapping):
        raise CascadeError(f"{argument}: {path.name!r} holds neither a tensor nor tensors by name.")
    return tensors[_one_of(list(map(str, tensors)), picked, path, argument)]


def _one_of(names: Sequence[str], picked: str | None, path: Path, argument: str) -> str:
    """Which of a file's arrays is meant: the one that is picked, or the only one."""
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


def _column(values: Any, argument: str) -> Column:
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
        lines = path.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise CascadeError(f"{argument}: {path.name!r} cannot be read: {error}.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    lines = [line.strip() for line in lines]
    if not lines or "" in lines:
        where = f"line {lines.index('') + 1} is empty" if lines else "it is empty"
        raise CascadeError(f"{argument}: {path.name!r}: {where}; expected one value per line.")
    return tuple(lines)


def _numbers_if_possible(lines: tuple[str, ...]) -> Column:
    """Whole numbers if every line is one as it is usually written, else numbers, else text."""
    if all(_WHOLE.fullmatch(line) for line in lines):
        return torch.tensor([int(line) for line in lines])
    if any(_PADDED.fullmatch(line) for line in lines):
        return lines
    try:
        return torch.tensor([float(line) for line in lines], dtype=torch.float64)
    except ValueError:
        return lines
