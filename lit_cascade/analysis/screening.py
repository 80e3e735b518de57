"""Tables of published single models, such as timm's: as a list, and as a front to compare with.

Which published models are worth recording: those on or near the front of single models.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from lit_cascade.core.search import Front, pareto
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.utilities.units import unit_label

__all__ = [
    "Candidate",
    "Criteria",
    "Published",
    "PublishedModel",
    "Screen",
    "front_of",
    "largest_sizes",
    "least_missed",
    "published_front",
    "published_models",
    "screen",
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


# Accuracies are decimals of few digits: this absorbs rounding, so that 0.80 is within 0.01 of 0.81.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Criteria:
    """What is asked of a model.

    Attributes:
        low: the least accuracy.
        high: the greatest accuracy.
        max_cost: per sample.
        margin: how far below the front a model may be, as a share of right answers.
        models: patterns of which a name must match one; none allows all.
        exclude: patterns of which a name must match none.
        at_most: how many models to keep, or None for all.
        all_sizes: consider a model at every size that it is listed at, not only at the largest.

    Raises:
        UsageError: a value out of range.
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
class Candidate:
    """A model that is worth recording.

    Attributes:
        model: as published.
        below: how far its accuracy is below that of the front at its cost; 0 on the front, and for
            a model that is as accurate as a cheaper one.
        on_front: whether no other model is cheaper and as accurate, or as cheap and more accurate.
    """

    model: PublishedModel
    below: float
    on_front: bool


@dataclass(frozen=True)
class Screen:
    """What a screening found.

    Attributes:
        pool: the models that match the patterns and cost no more than was allowed, one or more.
        front: of the pool, whatever the band of accuracies.
        in_band: how many of the pool are within that band.
        kept: one or more, in order of cost.
        cut: how many more would qualify, but for the number that was asked for.
        front_cut: how many of those are on the front.
    """

    pool: tuple[PublishedModel, ...]
    front: Front
    in_band: int
    kept: tuple[Candidate, ...]
    cut: int
    front_cut: int


def screen(models: Sequence[PublishedModel], criteria: Criteria, unit: str = "flops") -> Screen:
    """The models on the front of single models, and those that are below it by little.

    A model is kept if its accuracy is at least that of the best one that costs no more, less the
    margin: in a cascade a model that is a little worse alone may well be the better partner.

    Args:
        models: one or more, in any order.
        criteria: what is asked of them.
        unit: of their cost, for messages.

    Raises:
        UsageError: no model qualifies; the message says what would.

    Example:
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
    candidates = _judged(band, front)
    near = [found for found in candidates if found.below <= criteria.margin + _TOLERANCE]
    if not near:
        best = min(candidates, key=_order)
        enough = math.ceil(1e4 * best.below) / 1e4
        raise UsageError(
            f"--margin: none of {len(band)} models with an accuracy from {criteria.low:g} to "
            f"{criteria.high:g} is within {criteria.margin:g} of the front; the nearest, "
            f"{best.model.name!r}, would be with --margin {enough:g}."
        )
    kept = _picked(near, len(near) if criteria.at_most is None else criteria.at_most)
    on_front = sum(found.on_front for found in near)
    return Screen(
        tuple(pool),
        front,
        len(band),
        tuple(sorted(kept, key=lambda found: (found.model.cost, *_order(found)))),
        len(near) - len(kept),
        on_front - sum(found.on_front for found in kept),
    )


def _pool(models: Sequence[PublishedModel], criteria: Criteria, unit: str) -> list[PublishedModel]:
    for argument, patterns in (("--models", criteria.models), ("--exclude", criteria.exclude)):
        for pattern in patterns:
            if not any(_matches(model.name, [pattern]) for model in models):
                raise UsageError(
                    f"{argument}: {pattern!r} matches none of {len(models)} published models, "
                    f"such as {models[0].name!r}; * stands for any letters, as in 'resnet*'."
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
            f"--max_cost: none of {len(named)} models costs at most {criteria.max_cost:g} "
            f"{unit_label(unit)}; the cheapest, {least.name!r}, costs {least.cost:g}."
        )
    return pool


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether the name, or the architecture before its tag, matches a pattern."""
    architecture = name.partition(".")[0]
    return any(fnmatchcase(name, p) or fnmatchcase(architecture, p) for p in patterns)


def _no_accuracy(reached: Sequence[float], criteria: Criteria) -> str:
    """That no model is in the band, and where the nearest are."""
    under = [accuracy for accuracy in reached if accuracy < criteria.low]
    over = [accuracy for accuracy in reached if accuracy > criteria.high]
    between = f", none between {under[-1]:.4f} and {over[0]:.4f}" if under and over else ""
    return (
        f"--accuracy: none of {len(reached)} models has an accuracy from {criteria.low:g} to "
        f"{criteria.high:g}; they reach from {reached[0]:.4f} to {reached[-1]:.4f}{between}."
    )


def _judged(models: Sequence[PublishedModel], front: Front) -> list[Candidate]:
    cost = torch.tensor([model.cost for model in models], dtype=torch.float64)
    step = torch.searchsorted(front.cost, cost, right=True) - 1  # the pool has the models: never -1
    costs, best = front.cost[step].tolist(), front.accuracy[step].tolist()
    return [
        Candidate(
            model, accuracy - model.accuracy, (least, accuracy) == (model.cost, model.accuracy)
        )
        for model, least, accuracy in zip(models, costs, best, strict=True)
    ]


def _order(found: Candidate) -> tuple[bool, float, float, str, int]:
    """Front first, then by the distance to it; the rest makes the order certain."""
    model = found.model
    return (not found.on_front, found.below, model.cost, model.name, model.img_size or 0)


def _picked(near: Sequence[Candidate], at_most: int) -> list[Candidate]:
    ranked = sorted(near, key=_order)
    front = [found for found in ranked if found.on_front]
    if len(front) <= at_most:
        return ranked[:at_most]
    front.sort(key=lambda found: found.model.cost)
    points = [(found.model.cost, found.model.accuracy) for found in front]
    return [front[place] for place in least_missed(points, at_most)]


def least_missed(points: Sequence[tuple[float, float]], count: int) -> list[int]:
    """Places of the points of a front that keep its shape.

    One after the other goes the point that the front misses least: accuracy is lost up to the next
    dearer point, so what is missed is that gain times the step in the logarithm of the cost. The
    two ends stay; where only one may, it is the most accurate.

    Args:
        points: (cost, accuracy) in order of cost, costs above 0.
        count: of places, from 1 to the number of points.

    Example:
        >>> least_missed([(1, 0.5), (2, 0.7), (4, 0.701), (8, 0.8)], 3)
        [0, 1, 3]
    """
    places = list(range(len(points)))

    def missed(at: int) -> float:
        (_, before), (cost, accuracy), (after, _) = (points[places[at + k]] for k in (-1, 0, 1))
        return (accuracy - before) * math.log(after / cost)

    while len(places) > max(count, 2):
        del places[min(range(1, len(places) - 1), key=missed)]
    return places[-count:]
