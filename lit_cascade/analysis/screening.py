"""Published tables of single models, and the models in them that are worth recording.

These are on the Pareto front of single models or little below it.
"""

from __future__ import annotations

import csv
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from lit_cascade.core.search import Front
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.utilities.text import from_cell
from lit_cascade.utilities.units import counted, unit_label

_Columns = Mapping[str, Callable[[float], float]]
"""Columns that may hold a quantity, in order of preference, and their conversion."""

_ACCURACY: _Columns = {"accuracy": float, "top1": lambda percent: percent / 100}
_PARAMETERS: _Columns = {"parameters": float, "param_count": lambda millions: 1e6 * millions}
_SIZES = ("img_size", "infer_img_size")
# only commas between thousands are ignored: "0,8" may be 0.8 or a mistake
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
# Accuracies are decimals of few digits: this absorbs rounding, so that 0.80 is within 0.01 of 0.81.
_TOLERANCE = 1e-9

_Key = tuple[str, str]


@dataclass(frozen=True)
class PublishedModel:
    """Published figures of a model at one image size.

    Attributes:
        name: name with its pretraining tag, if it has one.
        img_size: in pixels; None if the tables have no sizes.
        accuracy: fraction of correct answers, 0 to 1.
        cost: per sample, positive and finite.
        parameters: number of parameters; None if unknown.
    """

    name: str
    img_size: int | None
    accuracy: float
    cost: float
    parameters: float | None = None


@dataclass(frozen=True)
class PublishedTable:
    """Models that have both an accuracy and a cost, and the number of rows left out.

    Attributes:
        models: one or more, in the order of the tables.
        without_cost: number of models with an accuracy, but no cost at their image size.
        unreadable: number of rows without a number in their column of accuracies.
    """

    models: tuple[PublishedModel, ...]
    without_cost: int = 0
    unreadable: int = 0


def published_models(
    tables: Mapping[str, Sequence[str]], unit: str = "flops", *, throughput: bool = False
) -> PublishedTable:
    r"""Read tables of published models and join them by model and image size.

    The image size is in the column `img_size` or `infer_img_size`. If tables differ in the cost of
    a model, the first counts; if they differ in its accuracy, they are of different data sets.

    Args:
        tables: CSV files by the option that names them, for messages. Each has a column `model`.
            Together they have `accuracy` (0 to 1) or `top1` (percent) and the cost: a column named
            as the unit, or for FLOPs `gmacs`, `infer_gmacs` or `macs` (doubled). Costs and
            parameters may be listed by architecture, the part of the name before the first dot.
            `parameters`, or `param_count` in millions, are optional.
        unit: unit of the cost.
        throughput: for `latency_s`, also accept the inverse of `infer_samples_per_sec`.

    Raises:
        UsageError: a file does not exist.
        CascadeError: a file is not such a table; no model has both an accuracy and a cost; a model
            has two accuracies; or an accuracy is out of range.

    Examples:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        ...     _ = file.write("model,img_size,top1,gmacs,param_count\na.x,224,75,4,25.6\n")
        ...     file.flush()
        ...     published_models({"--baseline": [file.name]}).models[0]
        PublishedModel(name='a.x', img_size=224, accuracy=0.75, cost=8000000000.0,
            parameters=25600000.0)
    """
    where, columns = ", ".join(tables), _cost_columns(unit, throughput=throughput)
    costs: dict[_Key, float] = {}
    parameters: dict[_Key, float] = {}
    accuracies: dict[_Key, float] = {}
    unreadable = 0
    files = [(argument, path) for argument, paths in tables.items() for path in paths]
    for argument, path in files:
        for row in _rows(path, argument):
            key = row["model"] or "", next((row[size] for size in _SIZES if row.get(size)), "")
            accuracy = _number(row, _ACCURACY)
            if accuracy is not None:
                known = accuracies.setdefault(key, accuracy)
                if known != accuracy and not math.isnan(accuracy):
                    size = f" at size {key[1]}" if key[1] else ""
                    raise CascadeError(
                        f"{argument}: {key[0]!r}{size} has two accuracies, {known:g} and "
                        f"{accuracy:g}, the latter in {path!r}; give tables of one data set."
                    )
            elif any(column in row for column in _ACCURACY):
                unreadable += 1
            for values, names in ((costs, columns), (parameters, _PARAMETERS)):
                value = _number(row, names)
                if value is not None and 0 < value < math.inf:
                    values.setdefault(key, value)
    models = [
        PublishedModel(key[0], _size(key[1]), accuracy, cost, _lookup(parameters, key))
        for key, accuracy in accuracies.items()
        if (cost := _lookup(costs, key)) is not None
    ]
    if not models:
        raise CascadeError(
            f"{where}: no model of {', '.join(repr(path) for _, path in files)} has both an "
            f"accuracy ({' or '.join(_ACCURACY)}) and a cost ({' or '.join(columns)}). They may be "
            "in two tables, which are joined by model and image size."
        )
    if not all(0 <= model.accuracy <= 1 for model in models):
        raise CascadeError(
            f"{where}: accuracies must be shares from 0 to 1 (or percent, in a column 'top1')."
        )
    return PublishedTable(tuple(models), len(accuracies) - len(models), unreadable)


def _cost_columns(unit: str, *, throughput: bool) -> _Columns:
    columns: dict[str, Callable[[float], float]] = {unit: float}
    if unit == "flops":
        columns |= dict.fromkeys(("gmacs", "infer_gmacs"), lambda giga: 2e9 * giga)
        columns["macs"] = lambda macs: 2 * macs
    if unit == "latency_s" and throughput:
        columns["infer_samples_per_sec"] = lambda rate: 1 / rate if rate else math.nan
    return columns


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
    return [row | {"model": from_cell(row["model"] or "")} for row in rows]


def _number(row: Mapping[str, str], columns: _Columns) -> float | None:
    """Return the number in the first column that holds one."""
    for column, convert in columns.items():
        text = (row.get(column) or "").strip()
        if _THOUSANDS.fullmatch(text):
            text = text.replace(",", "")
        try:
            # tables hold decimals of few digits, and percent / 100 is often not one
            return float(f"{convert(float(text)):.12g}")
        except ValueError:
            continue
    return None


def _lookup(values: Mapping[_Key, float], key: _Key) -> float | None:
    """Return the value of a model, or else of its architecture at that size."""
    return values.get(key, values.get((key[0].partition(".")[0], key[1])))


def _size(text: str) -> int | None:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def largest_sizes(models: Sequence[PublishedModel]) -> dict[str, int]:
    """Return the largest listed image size of each model, by name; 0 if it is unknown."""
    sizes: dict[str, int] = {}
    for model in models:
        sizes[model.name] = max(sizes.get(model.name, 0), model.img_size or 0)
    return sizes


def front_of(models: Sequence[PublishedModel]) -> Front:
    """Return the Pareto front of one or more models."""
    table = torch.tensor([(model.cost, model.accuracy) for model in models], dtype=torch.float64)
    return Front.of(table[:, 0], table[:, 1])


def published_front(paths: Sequence[str], unit: str = "flops") -> Front:
    """Return the Pareto front of the models in CSV files; see `published_models`."""
    return front_of(published_models({"--baseline": paths}, unit).models)


@dataclass(frozen=True)
class Criteria:
    """Criteria of a screening.

    Attributes:
        low: least accuracy.
        high: greatest accuracy.
        max_cost: greatest cost per sample.
        margin: greatest distance below the front, as a fraction of correct answers.
        models: patterns, one of which a name must match; by default all do.
        exclude: patterns that a name must not match.
        at_most: number of models to keep; None keeps all.
        all_sizes: consider a model at every listed size, not only at the largest.

    Raises:
        UsageError: a value is out of range.
    """

    low: float = 0.0
    high: float = 1.0
    max_cost: float = math.inf
    margin: float = 0.01
    models: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    at_most: int | None = None
    all_sizes: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.low < self.high <= 1:
            raise UsageError(
                "--accuracy: expected two shares with 0 <= low < high <= 1, such as 0.80:0.90, "
                f"got {self.low:g} to {self.high:g}."
            )
        if not self.max_cost > 0:
            raise UsageError(f"--max_cost: expected a cost above 0, got {self.max_cost:g}.")
        if not 0 <= self.margin < 1:
            raise UsageError(
                "--margin: expected a share of answers from 0 to below 1, such as 0.01 for one "
                f"point, got {self.margin:g}."
            )
        if self.at_most is not None and self.at_most < 1:
            raise UsageError(f"--at_most: expected at least 1, got {self.at_most}.")


@dataclass(frozen=True)
class ScreenedModel:
    """A model within the band of accuracies.

    Attributes:
        model: its published figures.
        below: accuracy of the front at its cost less its own; 0 on the front, and for a model that
            is as accurate as a cheaper one.
        on_front: whether no other model is cheaper and as accurate, or as cheap and more accurate.
    """

    model: PublishedModel
    below: float
    on_front: bool


@dataclass(frozen=True)
class Screening:
    """Result of a screening.

    Attributes:
        pool: models that match the patterns and the cost, one or more.
        front: Pareto front of the pool, whatever the band of accuracies.
        in_band: number of models of the pool within that band.
        kept: one or more models, in order of cost.
        cut: number of models left out only because of `at_most`.
        front_cut: number of those on the front.
    """

    pool: tuple[PublishedModel, ...]
    front: Front
    in_band: int
    kept: tuple[ScreenedModel, ...]
    cut: int
    front_cut: int


def screen(models: Sequence[PublishedModel], criteria: Criteria, unit: str = "flops") -> Screening:
    """Choose the models on the front of single models, and those little below it.

    A model is kept if its accuracy is at least that of the best model that costs no more, less the
    margin: a model that is slightly worse alone may be the better stage of a cascade.

    Args:
        models: one or more, in any order.
        criteria: criteria of the screening.
        unit: unit of the cost, for messages.

    Raises:
        UsageError: no model qualifies; the message says which criterion to relax.

    Examples:
        >>> table = [("a", 0.70, 1), ("b", 0.80, 4), ("c", 0.795, 5), ("d", 0.75, 6)]
        >>> models = [PublishedModel(name, None, share, cost) for name, share, cost in table]
        >>> [(kept.model.name, kept.on_front) for kept in screen(models, Criteria()).kept]
        [('a', True), ('b', True), ('c', False)]
    """
    pool = _pool(models, criteria, unit)
    front = front_of(pool)
    band = [model for model in pool if criteria.low <= model.accuracy <= criteria.high]
    if not band:
        raise UsageError(_no_accuracy(sorted(model.accuracy for model in pool), criteria))
    costs, accuracies = front.cost.tolist(), front.accuracy.tolist()
    compared = []
    for model in band:
        step = bisect_right(costs, model.cost) - 1  # never -1: the front starts at the least cost
        on_front = (costs[step], accuracies[step]) == (model.cost, model.accuracy)
        compared.append(ScreenedModel(model, accuracies[step] - model.accuracy, on_front))
    ranked = sorted(compared, key=_rank)
    near = [one for one in ranked if one.below <= criteria.margin + _TOLERANCE]
    if not near:
        best = ranked[0]
        enough = math.ceil(1e4 * best.below) / 1e4
        raise UsageError(
            f"--margin: none of {counted(len(band), 'model')} with an accuracy from "
            f"{criteria.low:g} to {criteria.high:g} is within {criteria.margin:g} of the "
            f"front; the nearest, {best.model.name!r}, would be with --margin {enough:g}."
        )
    kept = near if criteria.at_most is None else near[: criteria.at_most]
    steps = sorted((one for one in near if one.on_front), key=lambda one: one.model.cost)
    if len(steps) > len(kept):
        points = [(one.model.cost, one.model.accuracy) for one in steps]
        kept = [steps[place] for place in least_missed(points, len(kept))]
    return Screening(
        tuple(pool),
        front,
        len(band),
        tuple(sorted(kept, key=lambda one: (one.model.cost, *_rank(one)))),
        len(near) - len(kept),
        len(steps) - sum(one.on_front for one in kept),
    )


def _pool(models: Sequence[PublishedModel], criteria: Criteria, unit: str) -> list[PublishedModel]:
    for argument, patterns in (("--models", criteria.models), ("--exclude", criteria.exclude)):
        for pattern in patterns:
            if not any(_matches(model.name, [pattern]) for model in models):
                raise UsageError(
                    f"{argument}: {pattern!r} matches none of "
                    f"{counted(len(models), 'published model')}, such as {models[0].name!r}; * "
                    "stands for any letters, as in 'resnet*'."
                )
    largest = {} if criteria.all_sizes else largest_sizes(models)
    named = [
        model
        for model in models
        if (model.img_size or 0) >= largest.get(model.name, 0)
        and (not criteria.models or _matches(model.name, criteria.models))
        and not _matches(model.name, criteria.exclude)
    ]
    if not named:
        raise UsageError("--exclude: no model is left; leave out a pattern.")
    pool = [model for model in named if model.cost <= criteria.max_cost]
    if not pool:
        least = min(named, key=lambda model: model.cost)
        raise UsageError(
            f"--max_cost: none of {counted(len(named), 'model')} costs at most "
            f"{criteria.max_cost:g} {unit_label(unit)}; the cheapest, {least.name!r}, costs "
            f"{least.cost:g}."
        )
    return pool


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether the name, or the architecture before its tag, matches a pattern."""
    architecture = name.partition(".")[0]
    return any(fnmatchcase(name, p) or fnmatchcase(architecture, p) for p in patterns)


def _no_accuracy(reached: Sequence[float], criteria: Criteria) -> str:
    """Describe an empty band by the nearest accuracies."""
    under = [accuracy for accuracy in reached if accuracy < criteria.low]
    over = [accuracy for accuracy in reached if accuracy > criteria.high]
    between = f", none between {under[-1]:.4f} and {over[0]:.4f}" if under and over else ""
    return (
        f"--accuracy: none of {counted(len(reached), 'model')} has an accuracy from "
        f"{criteria.low:g} to {criteria.high:g}; they reach from {reached[0]:.4f} to "
        f"{reached[-1]:.4f}{between}."
    )


def _rank(one: ScreenedModel) -> tuple[bool, float, float, str, int]:
    """Sort key: the front first, then by distance to it; the rest breaks ties."""
    model = one.model
    return (not one.on_front, one.below, model.cost, model.name, model.img_size or 0)


def least_missed(points: Sequence[tuple[float, float]], count: int) -> list[int]:
    """Choose the places of the points of a front that preserve its shape.

    The point whose removal loses least is removed repeatedly. Without it, the accuracy gained over
    its predecessor is lost up to the next dearer point: the loss is that gain times the difference
    of the logarithms of their costs. Both ends are kept; of a single place, the most accurate.

    Args:
        points: (cost, accuracy) in order of cost, costs above 0.
        count: number of places, from 1 to the number of points.
    """
    places = list(range(len(points)))

    def missed(at: int) -> float:
        (_, before), (cost, accuracy), (after, _) = (points[places[at + k]] for k in (-1, 0, 1))
        return (accuracy - before) * math.log(after / cost)

    while len(places) > max(count, 2):
        del places[min(range(1, len(places) - 1), key=missed)]
    return places[-count:]
