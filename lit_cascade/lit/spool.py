"""Buffers for the rows of a loop: logits on disk, small columns in place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from torch import Tensor

from lit_cascade.errors import CascadeError
from lit_cascade.records import check_dtype_range

_NUMBERS = 2**22
"""Numbers that are moved at a time, 8 or 16 MB."""


class Columns:
    """Columns of small values per sample, in tensors that grow in place.

    Kept batch by batch they would fragment the memory that the logits of the batches leave free.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._n = 0

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Append values (n, ...) by name; the same names each time."""
        n = len(next(iter(rows.values())))
        for name, values in rows.items():
            held = self._held.get(name)
            if held is None or len(held) < self._n + n:
                room = max(1024, 2 * (self._n + n))
                larger = torch.empty((room, *values.shape[1:]), dtype=values.dtype)
                if held is not None:
                    larger[: self._n] = held[: self._n]
                self._held[name] = held = larger
            held[self._n : self._n + n] = values
        self._n += n

    def rows(self) -> dict[str, Tensor]:
        """All values, by name."""
        return {name: held[: self._n] for name, held in self._held.items()}


class Spool:
    """Logits of one model, buffered in an anonymous temporary file.

    Args:
        folder: for the file, on a disk with room for it.
        dtype: `float16` or `float32`.

    Attributes:
        largest: largest finite magnitude of the rows, before they were stored.
    """

    def __init__(self, folder: Path, dtype: str = "float16") -> None:
        self._folder, self.dtype = folder, dtype
        self._file = self._new_file()
        self._width = 0
        self._n = 0
        self.largest = 0.0

    def __len__(self) -> int:
        return self._n

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a full disk, which has been reported
            self._file.close()  # mapped rows stay valid

    def add(self, rows: Tensor) -> None:
        """Append rows (n, C) of any precision.

        Raises:
            CascadeError: another width than that of earlier rows, or a full disk.
        """
        if not len(rows):
            return
        if self._n and rows.shape[1] != self._width:
            raise CascadeError(
                f"batches do not fit together: {rows.shape[1]} logits after {self._width}."
            )
        self._width = rows.shape[1]
        finite = rows.abs().nan_to_num(0.0, 0.0, 0.0).max()  # others are reported elsewhere
        self.largest = max(self.largest, float(finite))
        self._write(self._file, rows)
        self._n += len(rows)

    def parts(self) -> Iterator[Tensor]:
        """Yield the rows, some megabytes at a time."""
        yield from self._mapped(self._file).split(self._step()) if self._n else ()

    def ordered(self, order: Tensor, name: str) -> Tensor:
        """The rows in another order, as a tensor (N, C) that stays on disk.

        Args:
            order: (N,) int64, indices into the rows in the order of their arrival.
            name: of the model, for messages.

        Raises:
            CascadeError: logits beyond the range of float16.
        """
        check_dtype_range(self.largest, self.dtype, name)
        held = self._mapped(self._file)
        if torch.equal(order, torch.arange(self._n)):
            return held
        with self._writing(), self._new_file() as file:
            for some in order.split(self._step()):
                self._write(file, held[some])
            return self._mapped(file)

    def _step(self) -> int:
        return max(1, _NUMBERS // max(1, self._width))

    def _new_file(self) -> IO[bytes]:
        with self._writing():
            return tempfile.TemporaryFile(dir=self._folder)

    def _write(self, file: IO[bytes], rows: Tensor) -> None:
        stored = rows.to(getattr(torch, self.dtype)).contiguous()
        with self._writing():
            file.write(stored.flatten().view(torch.uint8).numpy().data)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CascadeError(
                f"cannot write into {str(self._folder)!r}: {error.strerror or error}."
            ) from error

    def _mapped(self, file: IO[bytes]) -> Tensor:
        with self._writing():
            file.flush()
        shape = (self._n, self._width)
        numbers: Any = np.memmap(file, dtype=self.dtype, mode="r+", shape=shape)
        return torch.from_numpy(numbers)
