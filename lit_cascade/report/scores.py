"""The result of `compare-scores`: every score of a small model, and learned scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch

from lit_cascade.analysis import DRAWS, Estimate, FittedHead, ScoreComparison, ScoreFigures
from lit_cascade.core import oracle_deferral, sweep
from lit_cascade.records import Record
from lit_cascade.report.pictures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    figure_of,
    mark,
    png_of,
    quiet,
)
from lit_cascade.report.points import point_summary
from lit_cascade.report.text import Table, csv_text, data_title, percent, show, times
from lit_cascade.report.validation import provenance
from lit_cascade.utilities.units import counted, unit_label


def _number(value: float) -> str:
    return f"{value:.4f}" if isfinite(value) else "undefined"


def _with_interval(figure: Estimate, sign: str = "") -> str:
    if not isfinite(figure.value):
        return "undefined"
    return f"{figure.value:{sign}.3f} ({figure.low:{sign}.3f} to {figure.high:{sign}.3f})"


def _cost(ratio: float) -> str:
    return times(ratio) if ratio < 1 else "none"


def _cells(one: ScoreFigures, *, first: bool) -> list[str]:
    chosen = ["none", "", ""]
    if one.chosen is not None:
        chosen = [
            f"{one.chosen.threshold:.6g}",
            percent(one.chosen.accuracy, 2),
            times(one.chosen.cost_ratio),
        ]
    return [
        one.name,
        _with_interval(one.area),
        "" if first else _with_interval(one.gain, sign="+"),
        _number(one.aurc.value),
        _cost(one.cost_ratio.value),
        *chosen,
    ]


def print_scores(result: ScoreComparison, data: Mapping[str, Any], notes: Sequence[str]) -> None:
    """Print the quality of every score on some data."""
    (small, large), first = result.names, result.figures[0].name
    unit = unit_label(result.unit)
    table = Table(
        f"Scores of {small!r} for deferring to {large!r} on {data_title(data)}: "
        f"{counted(result.n, 'sample')}",
        "score", "area (95 %)", f"less {first}", "AURC", f"{unit} at equal accuracy",
        "threshold*", "accuracy*", f"{unit}*",
    )  # fmt: skip
    for number, one in enumerate(result.figures):
        table.add_row(*_cells(one, first=number == 0))
    table.add_section()
    error = _number(1 - result.accuracy[0])
    table.add_row("random deferral", "0", "", error, "none", "", "", "")
    table.add_row("oracle deferral", "1", "", "", _cost(result.bound), "", "", "")
    legend = (
        f"Area: 0 is random deferral, 1 the oracle. AURC: of {small!r}, less is better. {unit} at "
        f"equal accuracy: than {large!r} alone ({percent(result.accuracy[1], 2)}), at the cheapest "
        "threshold that keeps its accuracy on these samples, which is optimistic."
    )
    lines = [legend]
    if result.fitted_on:
        lines.append(
            f"* the cheapest threshold with the accuracy of {large!r} on "
            f"{counted(result.fitted_on, 'other sample')}, and its figures on these."
        )
    if result.missing is not None:
        lines.append(f"No learned score: {result.missing}.")
    show(table, *lines, *notes)


def scores_csv(result: ScoreComparison) -> str:
    """The content of `scores.csv`: one row per score, each figure with its 95 % interval."""
    rows = []
    kinds = {"area": "area", "gain": "gain", "aurc": "aurc", f"{result.unit}_ratio": "cost_ratio"}
    columns = [name + end for name in kinds for end in ("", "_low", "_high")]
    chosen = ["threshold", "accuracy", "deferral_rate", "cost_ratio"]
    for one in result.figures:
        figures: list[Estimate] = [getattr(one, kind) for kind in kinds.values()]
        numbers = [end for part in figures for end in (part.value, part.low, part.high)]
        held = ["" if one.chosen is None else getattr(one.chosen, name) for name in chosen]
        rows.append([one.name, *numbers, *held])
    headings = (f"chosen_{name.removeprefix('cost_')}" for name in chosen)
    return csv_text(["score", *columns, *headings], rows)


def head_summary(result: FittedHead) -> dict[str, Any]:
    """A fitted deferral head as numbers; its figures are those of the fitting samples."""
    return {
        "n": result.n,
        "fixed": result.fixed,
        "area": result.area,
        "area_max_softmax": result.area_before,
        "inverse_penalty": result.strength,
    }


def scores_summary(result: ScoreComparison, records: Sequence[Record]) -> dict[str, Any]:
    """The content of `summary.json`."""
    unit = result.unit
    return {
        "n": result.n,
        "fitted_on": result.fitted_on,
        "unit": unit,
        "draws": DRAWS,
        "stages": [
            {
                "name": name,
                "accuracy": result.accuracy[k],
                unit: float(result.costs[:, k].double().mean()),
            }
            for k, name in enumerate(result.names)
        ],
        "scores": {
            one.name: {
                "area": one.area,
                f"area_less_{result.figures[0].name}": one.gain,
                "aurc": one.aurc,
                f"{unit}_ratio_at_equal_accuracy": one.cost_ratio,
                "chosen": None
                if one.chosen is None
                else {"threshold": one.chosen.threshold, **point_summary(one.chosen, unit)},
            }
            for one in result.figures
        },
        "oracle": {f"{unit}_ratio_at_equal_accuracy": result.bound},
        "learned": None
        if result.learned is None
        else head_summary(result.learned) | {"head": result.learned.head.numbers},
        "missing": result.missing,
        "provenance": provenance(records),
    }


def print_heads(result: Mapping[str, FittedHead]) -> None:
    """Print the samples that each deferral head was fitted on, and its area beside max_softmax."""
    table = Table(
        "Learned score: samples that only the last stage has right",
        "stage", "samples", "only last right", "inverse penalty", "area of max_softmax", "learned",
    )  # fmt: skip
    for name, one in result.items():
        areas = (f"{area:.3f}" if isfinite(area) else "" for area in (one.area_before, one.area))
        table.add_row(name, f"{one.n:,}", f"{one.fixed:,}", f"{one.strength:g}", *areas)
    show(
        table,
        "Area: 0 is random deferral, 1 the oracle; on the fitting samples, which is optimistic for "
        "the learned score. For other samples: lit-cascade compare-scores.",
    )


# line styles tell curves apart where they coincide
_LINES = (
    (BLUE, "-"),
    (ORANGE, "--"),
    (GREEN, "-."),
    (VERMILION, (0, (1, 1))),
)


def draw_scores(result: ScoreComparison, data: Mapping[str, Any]) -> bytes:
    """Accuracy against deferral rate of every score as a PNG, with random and oracle deferral."""
    figure = figure_of(6.4, 4.2)
    axes = figure.add_subplot()
    # with these costs the mean cost is the deferral rate; only the corners of the bound are drawn
    oracle = oracle_deferral(result.correct, torch.tensor([[0.0, 1.0]]).expand(result.n, 2))
    gain = result.correct.long().diff(dim=1)
    corners = [0, int((gain > 0).sum()), result.n - int((gain < 0).sum()), result.n]
    axes.plot(
        100 * oracle.cost[corners], 100 * oracle.accuracy[corners], ":", color=BLACK,
        linewidth=1.2, label="oracle deferral (1)",
    )  # fmt: skip
    for one, (colour, style) in zip(result.figures, _LINES, strict=False):
        curve = sweep(one.scores, result.correct, result.costs)
        axes.plot(
            100 * curve.deferral_rate, 100 * curve.accuracy, linestyle=style, color=colour,
            linewidth=1.6, label=f"{one.name} ({one.area.value:.3f})", zorder=3,
        )  # fmt: skip
    small, large = (100 * accuracy for accuracy in result.accuracy)
    axes.plot(
        [0, 100], [small, large], "--", color=GREY, linewidth=1.2, label="random deferral (0)"
    )
    sides = ((0, small, "left"), (100, large, "right"))
    for (rate, accuracy, side), name in zip(sides, result.names, strict=True):
        mark(axes, name, (rate, accuracy), side)
    axes.set_xlabel("deferral rate (%)")
    axes.set_ylabel("accuracy (%)")
    where = f"{data_title(data)} ({counted(result.n, 'sample')})"
    axes.set_title(f"{' → '.join(result.names)} on {where}", fontsize=10)
    axes.legend(frameon=False, loc="best", fontsize=8)
    quiet(axes)
    axes.margins(x=0.04, y=0.1)
    return png_of(figure)
