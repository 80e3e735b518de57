"""Columns of CSV and Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lit_cascade.errors import CascadeError, UsageError, check_name

__all__ = ["read_frame"]

_INDEX = "__index_level_"  # what pandas calls an index without a name in a Parquet file


def read_frame(
    path: Path, picked: str | None, argument: str, *, several: bool
) -> tuple[Any, tuple[str, ...]]:
    """Columns of a file.

    Args:
        path: of the file, .csv with a header row or .parquet.
        picked: names of columns with commas between; None for all of them.
        argument: for messages.
        several: whether more than one column may be meant.

    Returns:
        The values: (N,) of one column, (N, C) if `several`; and the names of the columns. One
        column of lists is (N, C) without names.

    Raises:
        UsageError: it is not clear which columns are meant.
        CascadeError: the file cannot be read, or has empty cells.
    """
    try:
        table = pa.csv.read_csv(path) if path.suffix == ".csv" else pa.parquet.read_table(path)
        found: list[str] = table.column_names  # of which text is made only now
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n", maxsplit=1)[0].rstrip(".")
        raise CascadeError(f"{argument}: {path.name!r} cannot be read: {reason}.") from error
    names = [name for name in found if not name.startswith(_INDEX)]
    _check_header(names, path, argument)
    chosen = _chosen(names, picked, path, argument, several=several)
    columns = [_values(table.column(name), name, argument) for name in chosen]
    if not several or (len(columns) == 1 and columns[0].ndim == 2):
        return columns[0], ()
    kinds = {name: column.dtype for name, column in zip(chosen, columns, strict=True)}
    for name, kind in kinds.items():
        if kind.kind not in "biuf" or columns[chosen.index(name)].ndim != 1:
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
    if picked is not None:
        # a name may hold commas itself
        wanted = [picked] if picked in names else picked.split(",")
        for name in wanted:
            check_name(name, names, f"{argument}: column of {path.name}")
    else:
        wanted = list(names)
    if not several and len(wanted) != 1:
        raise UsageError(
            f"{argument}: expected one column, and {path.name!r} has {', '.join(names)}. "
            f"Pick one as {path.name}:{names[0] if names else 'NAME'}."
        )
    return wanted


def _values(column: Any, name: str, argument: str) -> Any:
    """A column as an array: of numbers, of text, or (N, C) where each cell is a list."""
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise CascadeError(
            f"{argument}: {column.null_count} cells of column {name!r} are empty, "
            f"first in row {row}."
        )
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.cast(kind.value_type), name, argument)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        rows = column.to_pylist()
        if len({len(row) for row in rows}) != 1:
            raise CascadeError(f"{argument}: the lists of column {name!r} differ in length.")
        return np.array(rows, dtype=kind.value_type.to_pandas_dtype())
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64()).to_numpy()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=np.str_)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise CascadeError(f"{argument}: column {name!r} holds {kind}, not numbers or text.")
    return column.to_numpy()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
