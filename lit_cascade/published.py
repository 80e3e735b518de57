"""Tables of published single models, such as timm's, as a front to compare with."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lit_cascade.core.frontier import Front, pareto
from lit_cascade.errors import CascadeError, UsageError

__all__ = ["published_front"]

_ACCURACY = {"accuracy": 1.0, "top1": 0.01}
_SIZES = ("img_size", "infer_img_size")


def _cost_columns(unit: str) -> dict[str, float]:
    """Columns that a cost may stand in, and what they are multiplied by."""
    found = {unit: 1.0}
    if unit == "flops":
        found |= {"gmacs": 2e9, "infer_gmacs": 2e9, "macs": 2.0}
    return found


def _rows(path: str) -> list[dict[str, str]]:
    if not Path(path).is_file():
        raise UsageError(f"--baseline: there is no file {path!r}.")
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CascadeError(f"--baseline: {path!r} cannot be read as CSV: {error}.") from error
    if not rows or "model" not in rows[0]:
        raise CascadeError(
            f"--baseline: {path!r} needs a header with a column 'model' and at least one row."
        )
    return rows


def _key(row: Mapping[str, str]) -> tuple[str, str]:
    size = next((row[column] for column in _SIZES if row.get(column)), "")
    return row["model"] or "", size


def _number(row: Mapping[str, str], columns: Mapping[str, float]) -> float | None:
    for column, factor in columns.items():
        try:
            return float(row[column]) * factor
        except (KeyError, TypeError, ValueError):
            continue
    return None


def published_front(paths: Sequence[str], unit: str = "flops") -> Front:
    """The Pareto front of published models.

    Args:
        paths: CSV files with a column `model`, and between them `accuracy` (0 to 1) or `top1`
            (percent), and the cost: a column named as the unit, or for FLOPs `gmacs`,
            `infer_gmacs` or `macs` (doubled). Two files are joined on `model` and image size, as
            timm keeps accuracy and cost apart; a pretraining tag after a dot may be missing.
        unit: of the cost.

    Raises:
        UsageError: no such file.
        CascadeError: no model with both an accuracy and a cost.
    """
    costs: dict[tuple[str, str], float] = {}
    accuracies: dict[tuple[str, str], float] = {}
    for path in paths:
        for row in _rows(path):
            accuracy, cost = _number(row, _ACCURACY), _number(row, _cost_columns(unit))
            if accuracy is not None:
                accuracies[_key(row)] = accuracy
            if cost is not None and 0 < cost < math.inf:
                costs[_key(row)] = cost
    points = []
    for (model, size), accuracy in accuracies.items():
        cost = costs.get((model, size), costs.get((model.partition(".")[0], size)))
        if cost is not None:
            points.append((cost, accuracy))
    if not points:
        raise CascadeError(
            f"--baseline: no model of {', '.join(map(repr, paths))} has both an accuracy "
            f"({' or '.join(_ACCURACY)}) and a cost ({' or '.join(_cost_columns(unit))})."
        )
    table = torch.tensor(points, dtype=torch.float64)
    if not bool(((table[:, 1] >= 0) & (table[:, 1] <= 1)).all()):
        raise CascadeError(
            "--baseline: accuracies must be shares from 0 to 1 (or percent, in a column 'top1')."
        )
    keep = pareto(table[:, 0], table[:, 1])
    return Front(table[keep, 0], table[keep, 1])
