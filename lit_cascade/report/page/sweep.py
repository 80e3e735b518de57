"""The rows under the page's slider: a cascade at many thresholds, each as in its file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from lit_cascade.core import readable_threshold
from lit_cascade.utilities.units import (
    cost_figure,
    cost_heading,
    metric_figure,
    metric_label,
    percent,
    times,
    total_figure,
    unit_label,
)

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

_ELSEWHERE = {"deferral_rate", "reach_last", "cost", "ratio", "cost_ratio"}
"""Columns with a tile of their own, or none."""


@dataclass(frozen=True)
class Sweep:
    """A cascade at M thresholds or sets of them, in the order of the slider.

    Attributes:
        thresholds: of each row, (M,) floats, or texts where there are several.
        figures: columns of numbers by name, (M,) each: `reach_last`, `accuracy`, `cost`, `ratio`,
            and whatever else was measured.
        promised: whether the promise is certified at each row, (M,); None if none was made.
        unit: of the cost.
        names: of the stages.
        calls: of a month; None if unknown.
        by: the column that charts show.
    """

    thresholds: Array
    figures: dict[str, Array]
    promised: Array | None
    unit: str
    names: Sequence[str]
    calls: float | None
    by: str

    @property
    def one(self) -> bool:
        """Whether a row has one threshold, and not several."""
        return self.thresholds.dtype.kind == "f"

    def __len__(self) -> int:
        return len(self.thresholds)

    @classmethod
    def of(
        cls,
        columns: dict[str, list[str]],
        unit: str,
        names: Sequence[str],
        calls: float | None = None,
        metric: str | None = None,
    ) -> Sweep:
        """The rows of `curve.csv` or `candidates.csv`.

        Raises:
            KeyError: a column is missing.
            ValueError: a number is none.
        """
        cost, ratio = unit, f"{unit}_ratio"
        texts = {"thresholds", "certified"}
        numbers = {k: np.array(v, float) for k, v in columns.items() if k not in texts}
        figures = {k: v for k, v in numbers.items() if k not in {"threshold", cost, ratio}}
        figures |= {"cost": numbers[cost], "ratio": numbers[ratio]}
        figures.setdefault("reach_last", figures["deferral_rate"])
        if "thresholds" in columns:  # several have no order of their own
            rows = (
                [f"{float(one):.6g}" for one in row.split(";")] for row in columns["thresholds"]
            )
            thresholds = np.array([", ".join(row) for row in rows])
            order = figures["cost"].argsort(kind="stable")
        else:
            thresholds = numbers["threshold"]
            order = thresholds.argsort(kind="stable")
        certified = columns.get("certified")
        by = metric or "accuracy"
        if np.isnan(figures[by]).any():  # without labels, what is promised is known
            by = next(name for name, values in figures.items() if not np.isnan(values).any())
        return cls(
            thresholds=thresholds[order],
            figures={name: values[order] for name, values in figures.items()},
            promised=None if certified is None else (np.array(certified) == "True")[order],
            unit=unit,
            names=names,
            calls=calls,
            by=by,
        )

    def row_at(self, threshold: float) -> int:
        """The row that defers the same samples as a threshold."""
        return min(int(self.thresholds.searchsorted(threshold)), len(self) - 1)

    def row_of(self, cost: float) -> int:
        """The row whose cost is nearest."""
        return int(np.abs(self.figures["cost"] - cost).argmin())

    def shown(self, row: int) -> str:
        """A threshold as the shortest decimal that defers the same samples."""
        value = self.thresholds[row]
        if isinstance(value, str):
            return value
        # below the second row are scores that the file does not have
        return readable_threshold(float(value), float(self.thresholds[row - 1])) if row > 1 else (
            f"{float(value)!r}"
        )  # fmt: skip

    def thinned(self, bins: int, keep: Collection[int]) -> list[int]:
        """The rows to draw: all of them, or so many that the picture is the same.

        Where there are more, each of `bins` steps of the slider and each of twice as many of the
        logarithm of the cost keeps its first row, its last, and those of its least and its
        greatest height.

        Args:
            bins: number of steps.
            keep: rows that are among them.
        """
        n, height = len(self), self.figures[self.by]
        if n <= 4 * bins:
            return list(range(n))
        kept = set(keep) | {0, n - 1}
        along = np.log(np.maximum(self.figures["cost"], 1e-300))
        for place, count in ((np.arange(n), bins), (along, 2 * bins)):
            edges = np.linspace(place.min(), place.max(), count + 1)[1:-1]
            groups = np.digitize(place, edges)
            order = np.lexsort((np.arange(n), groups))
            starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
            by_height = np.lexsort((height, groups))
            ends = np.append(starts[1:], n) - 1
            for rows in (order[starts], order[ends], by_height[starts], by_height[ends]):
                kept.update(rows.tolist())
        return sorted(kept)

    def tiles(self, rows: Sequence[int], sure: str) -> dict[str, list[str]]:
        """The numbers beside the slider, as texts by heading, at some rows.

        Args:
            rows: places.
            sure: the confidence of the promise, in words.
        """
        figures = {name: values[rows] for name, values in self.figures.items()}
        last, million = self.names[-1], "per million" in cost_heading(self.unit)
        tiles = {
            "threshold" if self.one else "thresholds": [self.shown(row) for row in rows],
            f"deferred to {last}" if len(self.names) == 2 else f"reach {last}": [
                percent(one) for one in figures["reach_last"]
            ],
        }
        for name, values in figures.items():
            if name in _ELSEWHERE or np.isnan(values).any():
                continue
            if name == "accuracy_drop":
                tiles["accuracy drop"] = [f"{100 * one:.2f} points" for one in values]
            else:
                tiles[metric_label(name)] = [metric_figure(name, one) for one in values]
        tiles[cost_heading(self.unit) + ("" if million else " per input")] = [
            cost_figure(one, self.unit) for one in figures["cost"]
        ]
        tiles[f"{unit_label(self.unit)}, than {last} alone"] = [
            times(one) for one in figures["ratio"]
        ]
        if self.calls is not None:
            saved = self.calls * figures["cost"] * (1 / figures["ratio"] - 1)
            heading = f"saved in a month of {self.calls:,.0f} calls, in {unit_label(self.unit)}"
            tiles[heading] = [total_figure(one, self.unit) for one in saved]
        if self.promised is not None:
            tiles["promise"] = [
                f"kept, with {sure}" if one else "not certified here" for one in self.promised[rows]
            ]
        return tiles
