"""Tables of published single models, such as timm's: as a list, and as a front to compare with."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lit_cascade.core.frontier import Front, pareto
from lit_cascade.errors import CascadeError, UsageError

__all__ = [
    "Published",
    "PublishedModel",
    "front_of",
    "largest_sizes",
    "published_front",
    "published_models",
]

_Columns = Mapping[str, Callable[[float], float]]
"""Columns that a quantity may stand in, the first before the others, and how to read them."""

_ACCURACY: _Columns = {"accuracy": float, "top1": lambda percent: percent / 100}
_PARAMETERS: _Columns = {"parameters": float, "param_count": lambda millions: 1e6 * millions}
_SIZES = ("img_size", "infer_img_size")
_THROUGHPUT = "infer_samples_per_sec"
# a comma is only taken for what it surely is: "0,8" may be 0.8 or a mistake
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")


@dataclass(frozen=True)
class PublishedModel:
    """What tables say of one model at one image size.

    Attributes:
        name: with its pretraining tag, if it has one.
        img_size: in pixels, or None where the tables have no sizes.
        accuracy: share of right answers, 0 to 1.
        cost: per sample, in the unit that was asked for; above 0 and finite.
        parameters: how many, or None where no table says.
    """

    name: str
    img_size: int | None
    accuracy: float
    cost: float
    parameters: float | None = None


@dataclass(frozen=True)
class Published:
    """Models that have both an accuracy and a cost, and how many had to be left out.

    Attributes:
        models: one or more, in the order of the tables.
        without_cost: how many more have an accuracy, but no cost at their image size.
        unreadable: rows under a column of accuracies that hold no number there.
    """

    models: tuple[PublishedModel, ...]
    without_cost: int = 0
    unreadable: int = 0


def _cost_columns(unit: str, *, throughput: bool) -> _Columns:
    found: dict[str, Callable[[float], float]] = {unit: float}
    if unit == "flops":
        found |= dict.fromkeys(("gmacs", "infer_gmacs"), lambda giga: 2e9 * giga)
        found["macs"] = lambda macs: 2 * macs
    if unit == "latency_s" and throughput:
        found[_THROUGHPUT] = lambda rate: 1 / rate if rate else math.nan
    return found


def _rows(path: str, argument: str) -> list[dict[str, str]]:
    if not Path(path).is_file():
        raise UsageError(f"{argument}: there is no file {path!r}.")
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CascadeError(f"{argument}: {path!r} cannot be read as CSV: {error}.") from error
    if not rows or "model" not in rows[0]:
        raise CascadeError(
            f"{argument}: {path!r} needs a header with a column 'model' and at least one row."
        )
    return rows


def _key(row: Mapping[str, str]) -> tuple[str, str]:
    size = next((row[column] for column in _SIZES if row.get(column)), "")
    return row["model"] or "", size


def _number(row: Mapping[str, str], columns: _Columns) -> float | None:
    """The number in the first of the columns that holds one."""
    for column, read in columns.items():
        text = (row.get(column) or "").strip()
        if _THOUSANDS.fullmatch(text):
            text = text.replace(",", "")
        try:
            # tables hold decimals of few digits, and percent / 100 is often not one
            return float(f"{read(float(text)):.12g}")
        except ValueError:
            continue
    return None


def published_models(
    tables: Mapping[str, Sequence[str]], unit: str = "flops", *, throughput: bool = False
) -> Published:
    r"""Read tables of published models and join them.

    A row is known by `model` and its image size (`img_size` or `infer_img_size`). Of several costs
    of one model that of the first table counts; several accuracies would be of different data.

    Args:
        tables: by the argument that names them, for messages: CSV files with a column `model`, and
            between them `accuracy` (0 to 1) or `top1` (percent), and the cost: a column named as
            the unit, or for FLOPs `gmacs`, `infer_gmacs` or `macs` (doubled). Two files are joined
            on `model` and image size, as timm keeps accuracy and cost apart; the table of costs may
            leave out a pretraining tag, which follows a dot. `parameters`, or `param_count` in
            millions, are read where they are.
        unit: of the cost.
        throughput: for `latency_s` also take the inverse of `infer_samples_per_sec`.

    Raises:
        UsageError: no such file.
        CascadeError: no table; no model with both an accuracy and a cost; one model with two
            accuracies; or accuracies that are no shares.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        ...     _ = file.write("model,img_size,top1,gmacs,param_count\na.x,224,75,4,25.6\n")
        ...     file.flush()
        ...     published_models({"--baseline": [file.name]}).models[0]
        PublishedModel(name='a.x', img_size=224, accuracy=0.75, cost=8000000000.0,
            parameters=25600000.0)
    """
    where, columns = ", ".join(tables), _cost_columns(unit, throughput=throughput)
    costs: dict[tuple[str, str], float] = {}
    parameters: dict[tuple[str, str], float] = {}
    accuracies: dict[tuple[str, str], float] = {}
    unreadable = 0
    for argument, path in [(name, path) for name, paths in tables.items() for path in paths]:
        for row in _rows(path, argument):
            key, accuracy, cost = _key(row), _number(row, _ACCURACY), _number(row, columns)
            count = _number(row, _PARAMETERS)
            if accuracy is not None:
                known = accuracies.setdefault(key, accuracy)
                if known != accuracy and not math.isnan(accuracy):
                    raise CascadeError(
                        f"{argument}: {_shown(key)} has two accuracies, {known:g} and "
                        f"{accuracy:g}, the latter in {path!r}; give tables of one data set."
                    )
            elif any(column in row for column in _ACCURACY):
                unreadable += 1
            if cost is not None and 0 < cost < math.inf:
                costs.setdefault(key, cost)
            if count is not None and 0 < count < math.inf:
                parameters.setdefault(key, count)
    models = [
        PublishedModel(key[0], _size(key[1]), accuracy, cost, _joined(parameters, key))
        for key, accuracy in accuracies.items()
        if (cost := _joined(costs, key)) is not None
    ]
    if not models:
        paths = [path for given in tables.values() for path in given]
        raise CascadeError(
            f"{where}: no model of {', '.join(map(repr, paths))} has both an accuracy "
            f"({' or '.join(_ACCURACY)}) and a cost ({' or '.join(columns)}). They may stand in "
            "two tables, which are joined by model and image size."
        )
    if not all(0 <= model.accuracy <= 1 for model in models):
        raise CascadeError(
            f"{where}: accuracies must be shares from 0 to 1 (or percent, in a column 'top1')."
        )
    return Published(tuple(models), len(accuracies) - len(models), unreadable)


def _joined(found: Mapping[tuple[str, str], float], key: tuple[str, str]) -> float | None:
    """What is known of a model, or else of its architecture at that size."""
    name, size = key
    return found.get(key, found.get((name.partition(".")[0], size)))


def _size(text: str) -> int | None:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def _shown(key: tuple[str, str]) -> str:
    return f"{key[0]!r} at size {key[1]}" if key[1] else repr(key[0])


def largest_sizes(models: Sequence[PublishedModel]) -> dict[str, int]:
    """The largest image size that each model is listed at, by name; 0 where sizes are unknown."""
    found: dict[str, int] = {}
    for model in models:
        found[model.name] = max(found.get(model.name, 0), model.img_size or 0)
    return found


def front_of(models: Sequence[PublishedModel]) -> Front:
    """The Pareto front of one or more models."""
    table = torch.tensor([(model.cost, model.accuracy) for model in models], dtype=torch.float64)
    keep = pareto(table[:, 0], table[:, 1])
    return Front(table[keep, 0], table[keep, 1])


def published_front(paths: Sequence[str], unit: str = "flops") -> Front:
    """The Pareto front of published models.

    Args:
        paths: CSV files, as `published_models` reads them.
        unit: of the cost.

    Raises:
        UsageError: no such file.
        CascadeError: as `published_models`.
    """
    return front_of(published_models({"--baseline": paths}, unit).models)
