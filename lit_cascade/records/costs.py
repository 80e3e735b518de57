"""Costs of models measured apart from the records, such as seconds per sample."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.records.record import Record
from lit_cascade.utilities.files import load_yaml
from lit_cascade.utilities.text import from_cell

ModelCosts = Mapping[str, float]
"""Cost per sample of each model, by name."""


def read_costs(cost: str) -> tuple[str, ModelCosts]:
    """Parse an option `cost`, and read the files that it names.

    Args:
        cost: UNIT for costs that the records hold, or UNIT=FILE,... with the costs of models: see
            `read_model_costs`.

    Returns:
        The unit, and the cost of each model in the files.

    Raises:
        UsageError: a file that is missing or holds no such costs.

    Examples:
        >>> read_costs("flops")
        ('flops', {})
    """
    unit, equals, files = cost.partition("=")
    costs: dict[str, float] = {}
    for file in files.split(",") if equals else ():
        costs |= read_model_costs(file, unit)
    return unit, costs


def read_model_costs(
    file: str, unit: str, argument: str = "--cost", data: str | None = None
) -> dict[str, float]:
    """Costs per sample of models, from a file.

    Args:
        file: the `benchmark.json` of `lit-cascade benchmark`; JSON or YAML such as
            `{"small": {"latency_s": 0.001}}`; or a .csv with a header row, whose column `model`,
            or else its only one of text, names the models. FILE.csv:COLUMN picks the column of the
            costs, which is otherwise called as the unit, such as usd or usd_per_call, or is the
            only one of numbers. Models with an empty cell have none.
        unit: of the cost.
        argument: name of the argument, for messages.
        data: name of the data; of a .csv with a column `dataset` the other rows are not read.

    Raises:
        UsageError: a file that is missing or holds no such costs.
    """
    path, column = file, ""
    if ".csv:" in file and not Path(file).exists():
        path, _, column = file.rpartition(":")
    if path.endswith(".csv"):
        return _read_table(Path(path).expanduser(), column or None, unit, argument, data)
    return _read(Path(file).expanduser(), unit)


def _read_table(
    path: Path, column: str | None, unit: str, argument: str, data: str | None
) -> dict[str, float]:
    where = f"{argument}: {str(path)!r}"
    try:
        with path.open(newline="", encoding="utf-8") as opened:
            reader = csv.DictReader(opened)
            rows = list(reader)
            names = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{argument}: cannot read {str(path)!r}: {reason}.") from error
    if not rows or any(None in row or None in row.values() for row in rows):
        raise UsageError(f"{where}: expected a header row, and below it rows of as many cells.")
    which = ""
    if "dataset" in names and data is not None:
        known = dict.fromkeys(row["dataset"] for row in rows)
        rows = [row for row in rows if row["dataset"] == check_name(data, known, "--data")]
    elif "dataset" in names:
        which = " Its column dataset tells rows apart: name the data with --data."
    if column is not None:
        check_name(column, names, f"{argument}: column of {path.name}")
    numbers = [name for name in names if all(_number(row[name]) for row in rows)]
    key, value = _columns(names, numbers, column, unit, where)
    costs: dict[str, float] = {}
    for row in rows:
        name, cell = from_cell(row[key]), row[value].strip()
        if name in costs:
            raise UsageError(f"{where}: the model {name!r} occurs twice.{which}")
        if cell and not (_number(cell) and 0 <= float(cell) < math.inf):
            raise UsageError(
                f"{where}: {value} of {name!r} must be a number of at least 0, got {cell!r}."
            )
        if cell:
            costs[name] = float(cell)
    return costs


def _columns(
    names: Sequence[str], numbers: Sequence[str], column: str | None, unit: str, where: str
) -> tuple[str, str]:
    """The columns of the models' names and of their costs.

    Raises:
        UsageError: there is none, or it could be several.
    """
    texts = [name for name in names if name not in {*numbers, "dataset"}]
    keys = ["model"] if "model" in names else texts
    of_unit = [name for name in numbers if name.startswith(f"{unit}_")]
    others = [name for name in numbers if name not in keys]
    values = [unit] if unit in names else of_unit or others
    values = values if column is None else [column]
    if len(keys) == len(values) == 1:
        return keys[0], values[0]
    wanted, how = f"is the cost in {unit}", "pick one with :COLUMN after the file"
    if len(keys) != 1:
        wanted, how = "names the models", "call one 'model'"
    raise UsageError(f"{where}: which column {wanted}? It has {', '.join(names)}; {how}.")


def _number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def _read(path: Path, unit: str) -> dict[str, float]:
    try:
        content: Any = load_yaml(path.read_text())  # JSON is YAML too
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n", maxsplit=1)[0]
        raise UsageError(f"--cost: cannot read {str(path)!r}: {reason}.") from error
    if isinstance(content, Mapping) and isinstance(content.get("costs"), Mapping):
        content = content["costs"]
    if not isinstance(content, Mapping) or not all(
        isinstance(one, Mapping) for one in content.values()
    ):
        raise UsageError(
            f"--cost: {str(path)!r} names no costs; expected the benchmark.json of a benchmark, or "
            f"{json.dumps({'MODEL': {unit: 0.001}})}."
        )
    costs = {str(name): one[unit] for name, one in content.items() if unit in one}
    if not costs:
        units = sorted({str(key) for one in content.values() for key in one})
        raise UsageError(
            f"--cost: {str(path)!r} has no costs in {unit!r}; it has {', '.join(units) or 'none'}."
        )
    for name, value in costs.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise UsageError(
                f"--cost: {str(path)!r}: {unit} of {name!r} must be a number of at least 0, "
                f"got {value!r}."
            )
    return {name: float(value) for name, value in costs.items()}


def with_costs(records: Sequence[Record], unit: str, costs: ModelCosts) -> list[Record]:
    """Replace the costs of records in one unit; without any costs the records stay as they are.

    Raises:
        UsageError: a model without a cost.
    """
    if not costs:
        return list(records)
    missing = [record.name for record in records if record.name not in costs]
    if missing:
        raise UsageError(
            f"--cost: the cost of {', '.join(missing)} in {unit} is not given; given are "
            f"{', '.join(sorted(costs))}."
        )

    def column(record: Record) -> torch.Tensor:
        return torch.full((len(record),), costs[record.name], dtype=torch.float64)

    return [replace(record, costs={**record.costs, unit: column(record)}) for record in records]


def priced(records: Sequence[Record], cost: str) -> tuple[list[Record], str]:
    """Records with the costs of the files that an option `cost` names, and the unit alone.

    Raises:
        UsageError: a file that is missing, or lacks one of the models.
        CascadeError: a record without a cost in this unit; the message says what would work.
    """
    unit, costs = read_costs(cost)
    costed = with_costs(records, unit, costs)
    lacking = next((record for record in costed if unit not in record.costs), None)
    if lacking is not None:
        shared = [one for one in lacking.costs if all(one in record.costs for record in costed)]
        hint = f"no unit is known of all: give --cost {unit}=FILE.csv, columns model and {unit}"
        if shared:
            hint = f"all have {shared[0]}: give --cost {shared[0]}"
        raise CascadeError(
            f"record {lacking.name!r} has no cost {unit!r}; it has {', '.join(lacking.costs)}, and "
            f"{hint}."
        )
    return costed, unit
