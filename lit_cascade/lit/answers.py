"""Files of answers: parts while a cascade runs, and at the end one file that they become.

Each part is there whole or not at all. They are unfinished work until they are one file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lit_cascade.errors import CascadeError
from lit_cascade.lit.parts import fewest
from lit_cascade.records import Ids
from lit_cascade.utilities.files import open_atomically, write_atomically
from lit_cascade.utilities.resume import Unfinished

__all__ = ["PARTS", "AnswerFiles", "Answers", "unfinished"]

PARTS = "predictions.parts"
"""The folder of what is finished, beside where the whole will be."""

_LEFT_OUT, _FITTING = b"left_out", b"samples_per_forward"


@dataclass(frozen=True)
class Answers:
    """What was written.

    Attributes:
        n: number of samples that were answered.
        by_stage: how many each stage answered.
        left_out: position and reason of samples that could not be read.
        resumed: how many of the answers an earlier run had given.
        fitting: samples per forward pass, by stage, where whole batches did not fit into memory.
    """

    n: int
    by_stage: tuple[int, ...]
    left_out: tuple[tuple[Any, str], ...]
    resumed: int
    fitting: Mapping[str, int] = field(default_factory=dict)


def unfinished(folder: Path) -> Unfinished:
    """The answers that a folder holds, or will hold, until they are one file."""
    return Unfinished(folder / PARTS)


class AnswerFiles:
    """The parts of a run in a folder, and the file that they become.

    Args:
        folder: on a disk that all processes share.
        name: of the file, `.parquet` or `.csv`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._unfinished = unfinished(folder)
        self._parts = self._unfinished.folder

    def take_up(self, plan: Mapping[str, Any]) -> set[int]:
        """The windows that an earlier run has finished; starts a run if there is none.

        Args:
            plan: what the answers depend on, plain JSON; the earlier run must have had the same.

        Raises:
            UsageError: an earlier run had other models, data or settings.
            CascadeError: the disk is full.
        """
        if not self._unfinished.begun(plan):
            self._unfinished.begin(plan)
            return set()
        return {int(one.stem) for one in self._parts.glob("*.parquet") if one.stem.isdecimal()}

    def write(
        self,
        window: int,
        columns: Mapping[str, Any],
        left_out: Mapping[int, str],
        fitting: Mapping[str, int],
    ) -> None:
        """Write a part.

        Args:
            window: its number.
            columns: arrays by name, among them `position` and the number of the `stage`.
            left_out: position and reason of samples that could not be read.
            fitting: as in `Answers`, so far.

        Raises:
            UsageError: the folder cannot be written to.
            CascadeError: the disk is full.
        """
        told = {_LEFT_OUT: json.dumps(left_out), _FITTING: json.dumps(fitting)}
        buffer = io.BytesIO()
        pq.write_table(pa.table(dict(columns)).replace_schema_metadata(told), buffer)
        write_atomically(self._part(window), buffer.getvalue())

    def join(self, windows: int, names: Sequence[str], ids: Ids, *, in_order: bool) -> Answers:
        """Make one file of the parts, in the order of the data; they stay.

        Args:
            windows: how many there must be.
            names: of the stages.
            ids: of the samples by position.
            in_order: whether the windows follow the order of the data; else all answers must fit
                into memory.

        Raises:
            UsageError: the folder cannot be written to.
            CascadeError: a part is missing or damaged, or the disk is full.
        """
        paths = [self._part(window) for window in range(windows)]
        lost = [window for window, path in enumerate(paths) if not path.is_file()]
        if lost:
            raise CascadeError(f"the answers of {len(lost)} windows are missing, first {lost[0]}.")
        said = _Said()
        tables: Iterator[Any] = (said.heard(_read(path)) for path in paths)
        if not in_order:
            tables = iter([pa.concat_tables(list(tables)).sort_by("position")])
        counts = torch.zeros(len(names), dtype=torch.int64)

        def shown() -> Iterator[Any]:
            for table in tables:
                stages = torch.tensor(table["stage"].to_numpy(), dtype=torch.int64)
                counts.add_(torch.bincount(stages, minlength=len(names)))
                named = pa.array([names[stage] for stage in stages.tolist()], pa.string())
                rest = table.replace_schema_metadata().drop_columns(["position"])
                yield rest.set_column(rest.schema.get_field_index("stage"), "stage", named)

        with open_atomically(self._folder / self._name, self._parts) as file:
            _write_all(shown(), file, self._name)
        gone = [
            (ids[at].item() if isinstance(ids, Tensor) else ids[at], reason)
            for at, reason in sorted(said.left_out.items())
        ]
        return Answers(int(counts.sum()), tuple(counts.tolist()), tuple(gone), 0, said.fitting)

    def _part(self, window: int) -> Path:
        return self._parts / f"{window:08d}.parquet"


class _Said:
    """What the parts say beside their rows."""

    def __init__(self) -> None:
        self.left_out: dict[int, str] = {}
        self.fitting: dict[str, int] = {}

    def heard(self, table: Any) -> Any:
        """The table, after listening to it."""
        told = table.schema.metadata
        self.left_out |= {int(at): reason for at, reason in json.loads(told[_LEFT_OUT]).items()}
        self.fitting = fewest([self.fitting, json.loads(told[_FITTING])])
        return table


class _ParquetWriter(pq.ParquetWriter):  # type: ignore[misc] # pyarrow has no types
    """One that is thrown away where it failed, instead of trying to finish its file."""

    def __del__(self) -> None:
        pass


def _write_all(tables: Iterator[Any], file: Any, name: str) -> None:
    """Write tables of one schema, one after the other."""
    kind = _ParquetWriter if name.endswith(".parquet") else pa_csv.CSVWriter
    writer = None
    for table in tables:
        writer = writer or kind(file, table.schema)
        if len(table):
            writer.write_table(table)
    if writer is not None:
        writer.close()


def _read(path: Path) -> Any:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CascadeError(f"the part {str(path)!r} is damaged ({error}): remove it.") from error
