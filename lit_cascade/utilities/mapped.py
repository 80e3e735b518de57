"""Tensors that lie in a file, read by blocks of rows in the memory of one block."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

_FILES: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""Mapped files by the address of the storage that lies in them; a freed tensor leaves no entry."""

_TAKEN = 2**20
"""Numbers that are copied at once."""

_AROUND = 2**21
"""Bytes before a page that Linux may map with it, again after they were given back."""


def mapped_tensor(path: Path, name: str, dtype: torch.dtype) -> Tensor:
    """Map one tensor of a safetensors file.

    What is written to the tensor stays in memory, as with `safetensors.safe_open`.

    Args:
        path: of a file that safetensors has opened without an error.
        name: of the tensor.
        dtype: type of the tensor.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry: dict[str, Any] = json.loads(file.read(length))[name]
    return mapped_numbers(path, 8 + length + entry["data_offsets"][0], entry["shape"], dtype)


def mapped_numbers(path: Path, start: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Map numbers that lie in a file, as `mapped_tensor`.

    Args:
        path: of the file.
        start: first byte of the numbers.
        shape: of the tensor, which holds at least one number.
        dtype: type of the numbers.
    """
    before = start % mmap.ALLOCATIONGRANULARITY  # a mapping starts at a page
    size = before + math.prod(shape) * dtype.itemsize
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY, offset=start - before)
    tensor = torch.frombuffer(content, dtype=dtype, offset=before).view(list(shape))
    _FILES[tensor.untyped_storage().data_ptr()] = content
    return tensor


def row_slices(matrix: Tensor, size: int, rows: Tensor | None = None) -> Iterator[Tensor]:
    """Blocks of rows of a matrix, each valid until the next is asked for.

    Where the matrix is mapped from a file, the pages of a block are given back after it, so that
    one pass over any file needs the memory of one block. They stay in the cache of the system,
    and a later read finds them there.

    Args:
        matrix: (N, C).
        size: number of rows of a block.
        rows: positions of the rows to read, in their order; by default all.

    Examples:
        >>> [len(block) for block in row_slices(torch.zeros(5, 2), 2)]
        [2, 2, 1]
    """
    if rows is None:
        for block in matrix.split(size):
            yield block
            _give_back(block)
        return
    for some in rows.split(size):
        yield matrix[some]
        if _FILES and len(some):
            first, last = some.aminmax()
            _give_back(matrix[int(first) : int(last) + 1])


def taken(matrix: Tensor, rows: Tensor) -> Tensor:
    """Copy rows of a matrix, in the memory of the copy.

    Args:
        matrix: (N, C).
        rows: positions of the rows, (M,) integers.

    Returns:
        (M, C).
    """
    copy, start = matrix.new_empty(len(rows), *matrix.shape[1:]), 0
    for block in row_slices(matrix, max(1, _TAKEN // max(1, matrix[:1].numel())), rows):
        copy[start : start + len(block)] = block
        start += len(block)
    return copy


def _give_back(block: Tensor) -> None:
    """Unmap the pages of a block, unless it is no view of a mapped tensor or was written to."""
    if not _FILES:  # single samples of a live cascade are urgent
        return
    start = block.untyped_storage().data_ptr()
    content = _FILES.get(start)
    # pages that were written to are copies, which would be lost
    if content is None or block.is_inference() or block._version:  # noqa: SLF001 - no other name
        return
    page = mmap.PAGESIZE
    first = block.data_ptr() - start + start % page
    last = min(first + block.nbytes, len(content))
    first = max(first - _AROUND, 0) // page * page
    if hasattr(content, "madvise"):  # not on Windows
        content.madvise(mmap.MADV_DONTNEED, first, last - first)
