"""Costs that were measured apart from the records, such as seconds per sample.

Records at the costs that a command is told to judge by.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import yaml

from lit_cascade.errors import UsageError

if TYPE_CHECKING:
    from lit_cascade.records.record import Record

__all__ = ["Prices", "at_cost", "priced", "prices_from"]


Prices = Mapping[str, float]
"""Cost per sample of models, by name."""


def prices_from(cost: str) -> tuple[str, Prices]:
    """The unit that an option `cost` names, and what it costs by model.

    Args:
        cost: UNIT for costs that the records hold, or UNIT=FILE,... with the costs of models: the
            `benchmark.json` of `lit-cascade benchmark`, or JSON or YAML such as
            `{"small": {"latency_s": 0.001}}`.

    Raises:
        UsageError: a file that is not there, or is something else.

    Example:
        >>> prices_from("flops")
        ('flops', {})
    """
    unit, equals, files = cost.partition("=")
    if not equals:
        return cost, {}
    found: dict[str, float] = {}
    for file in files.split(","):
        found |= _read(Path(file).expanduser(), unit)
    return unit, found


def _read(path: Path, unit: str) -> dict[str, float]:
    try:
        content: Any = yaml.safe_load(path.read_text())  # of which JSON is a part
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
    found = {str(name): one[unit] for name, one in content.items() if unit in one}
    for name, value in found.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise UsageError(
                f"--cost: {str(path)!r}: {unit} of {name!r} must be a number above 0, "
                f"got {value!r}."
            )
    if not found:
        raise UsageError(
            f"--cost: {str(path)!r} knows no {unit!r}; it has "
            f"{', '.join(sorted({str(key) for one in content.values() for key in one})) or 'none'}."
        )
    return {name: float(value) for name, value in found.items()}


def priced(records: Sequence[Record], unit: str, prices: Prices) -> list[Record]:
    """Records that cost what was measured.

    Raises:
        UsageError: nothing is known of one of the models.
    """
    if not prices:
        return list(records)
    missing = [record.name for record in records if record.name not in prices]
    if missing:
        raise UsageError(
            f"--cost: nothing says what {', '.join(missing)} costs in {unit}; known are "
            f"{', '.join(sorted(prices))}."
        )
    return [
        replace(
            record,
            costs={
                **record.costs,
                unit: torch.full((len(record),), prices[record.name], dtype=torch.float64),
            },
        )
        for record in records
    ]


_Options = TypeVar("_Options", bound=Any)


def at_cost(records: Sequence[Record], options: _Options) -> tuple[list[Record], _Options]:
    """Records with the costs of a file, and options whose `cost` is the unit alone.

    Raises:
        UsageError: a file that is not there, or that does not know one of the models.
    """
    unit, prices = prices_from(options.cost)
    return priced(records, unit, prices), replace(options, cost=unit)
