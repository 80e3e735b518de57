"""Rows of logits kept on disk while a loop runs, so that memory does not grow with the samples."""

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

__all__ = ["Columns", "Spool"]

_ROWS = 2**22
"""Numbers that are moved at a time: 8 or 16 MB."""


class Columns:
    """Small values per sample, which grow in place.

    Kept batch by batch, they would lie between the freed logits of the batches and keep that memory
    from being used again.
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
    """Rows of one model's logits, in a file that nobody else sees and that no kill leaves behind.

    Args:
        folder: where the file lies; the disk must have room for it.
        dtype: of the numbers, `float16` or `float32`.
    """

    def __init__(self, folder: Path, dtype: str = "float16") -> None:
        self._folder, self.dtype = folder, dtype
        self._file = self._made()
        self._width = 0
        self._n = 0
        self._largest = 0.0

    def __len__(self) -> int:
        return self._n

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a full disk, which was told when it was met
            self._file.close()  # what was mapped stays

    def add(self, rows: Tensor) -> None:
        """Append rows (n, C) of any precision.

        Raises:
            CascadeError: rows of another width than those before, or a full disk.
        """
        if not len(rows):
            return
        if self._n and rows.shape[1] != self._width:
            raise CascadeError(
                f"batches do not fit together: {rows.shape[1]} logits after {self._width}."
            )
        self._width = rows.shape[1]
        finite = rows.abs().nan_to_num(0.0, 0.0, 0.0).max()  # what is not finite is told elsewhere
        self._largest = max(self._largest, float(finite))
        self._write(self._file, rows)
        self._n += len(rows)

    def parts(self) -> Iterator[Tensor]:
        """The rows, some megabytes at a time."""
        yield from self._held().split(self._step()) if self._n else ()

    def ordered(self, order: Tensor, name: str) -> Tensor:
        """The rows in another order, as a tensor whose numbers stay on disk.

        Args:
            order: positions (N,) among the rows as they came.
            name: of the model, for messages.

        Raises:
            CascadeError: float16 could not hold them.
        """
        check_dtype_range(self._largest, self.dtype, name)
        held = self._held()
        if torch.equal(order, torch.arange(self._n)):
            return held
        with self._writing(), self._made() as file:
            for some in order.split(self._step()):
                self._write(file, held[some])
            return self._mapped(file)

    def take(self, parts: list[Tensor], largest: float) -> None:
        """Append rows that another process kept."""
        for part in parts:
            self.add(part)
        self._largest = max(self._largest, largest)

    @property
    def largest(self) -> float:
        """The largest finite magnitude that came, before it was stored."""
        return self._largest

    def _step(self) -> int:
        return max(1, _ROWS // max(1, self._width))

    def _made(self) -> IO[bytes]:
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

    def _held(self) -> Tensor:
        return self._mapped(self._file)

    def _mapped(self, file: IO[bytes]) -> Tensor:
        with self._writing():
            file.flush()
        shape = (self._n, self._width)
        numbers: Any = np.memmap(file, dtype=self.dtype, mode="r+", shape=shape)
        return torch.from_numpy(numbers)
