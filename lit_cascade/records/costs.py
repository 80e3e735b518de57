"""Costs of models measured apart from the records, such as seconds per sample."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from lit_cascade.errors import UsageError
from lit_cascade.records.record import Record
from lit_cascade.utilities.files import load_yaml

ModelCosts = Mapping[str, float]
"""Cost per sample of each model, by name."""


def read_costs(cost: str) -> tuple[str, ModelCosts]:
    """Parse an option `cost`, and read the files that it names.

    Args:
        cost: UNIT for costs that the records hold, or UNIT=FILE,... with the costs of models: the
            `benchmark.json` of `lit-cascade benchmark`, or JSON or YAML such as
            `{"small": {"latency_s": 0.001}}`.

    Returns:
        The unit, and the cost of each model in the files.

    Raises:
        UsageError: a file that is missing or holds no such costs.

    Example:
        >>> read_costs("flops")
        ('flops', {})
    """
    unit, equals, files = cost.partition("=")
    costs: dict[str, float] = {}
    for file in files.split(",") if equals else ():
        costs |= _read(Path(file).expanduser(), unit)
    return unit, costs


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
        if not number or not 0 < value < math.inf:
            raise UsageError(
                f"--cost: {str(path)!r}: {unit} of {name!r} must be a number above 0, "
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
    """
    unit, costs = read_costs(cost)
    return with_costs(records, unit, costs), unit
