"""The result of `compare-scores`: every score of a small model, and learned scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from lit_cascade.analysis import DRAWS, Calibration, Estimate, ScoreComparison, ScoreFigures
from lit_cascade.records import Record
from lit_cascade.report.pictures import figure_of, png_of
from lit_cascade.report.points import point_summary
from lit_cascade.report.text import Column, Table, columns_csv, data_title, show
from lit_cascade.report.validation import provenance
from lit_cascade.utilities.drawing import literal
from lit_cascade.utilities.units import counted, percent, times, unit_label


def _number(value: float) -> str:
    return f"{value:.4f}" if isfinite(value) else "undefined"


def _interval(figure: Estimate, sign: str = "") -> str:
    return f"{figure.low:{sign}.3f} to {figure.high:{sign}.3f}" if isfinite(figure.value) else ""


def _value(figure: Estimate, sign: str = "") -> str:
    return f"{figure.value:{sign}.3f}" if isfinite(figure.value) else "undefined"


def _cost(ratio: float) -> str:
    return times(ratio) if ratio < 1 else "none"


def _cells(one: ScoreFigures, *, first: bool, held: bool) -> list[str]:
    chosen = ["none", "", ""]
    if one.chosen is not None:
        chosen = [
            f"{one.chosen.threshold:.6g}",
            percent(one.chosen.accuracy, 2),
            times(one.chosen.cost_ratio),
        ]
    gain = f"{_value(one.gain, '+')} ({_interval(one.gain, '+')})".removesuffix(" ()")
    return [
        one.name,
        _value(one.area),
        _interval(one.area),
        "" if first else gain,
        _number(one.aurc.value),
        _cost(one.cost_ratio.value),
        *(chosen if held else []),
    ]


def print_scores(result: ScoreComparison, data: Mapping[str, Any], notes: Sequence[str]) -> None:
    """Print the quality of every score on some data."""
    (small, large), first = result.names, result.figures[0].name
    unit, held = unit_label(result.unit), bool(result.fitted_on)
    chosen: list[str | Column] = [Column("threshold*", detail=1), "accuracy*", f"{unit}*"]
    table = Table(
        f"Scores of {small!r} for deferring to {large!r} on {data_title(data)}: "
        f"{counted(result.n, 'sample')}",
        "score", "area", Column("95 %", detail=3), f"less {first} (95 %)", Column("AURC", detail=2),
        Column(f"{unit} at equal accuracy", detail=int(held)),
        *(chosen if held else []),
    )  # fmt: skip
    for number, one in enumerate(result.figures):
        table.add_row(*_cells(one, first=number == 0, held=held))
    table.add_section()
    error = _number(1 - result.accuracy[0])
    blank = ["", "", ""] if held else []
    table.add_row("random deferral", "0", "", "", error, "none", *blank)
    table.add_row("oracle deferral", "1", "", "", "", _cost(result.bound), *blank)
    legend = (
        f"Area: 0 is random deferral, 1 the oracle. AURC: of {small!r}, less is better. {unit} at "
        f"equal accuracy: than {large!r} alone ({percent(result.accuracy[1], 2)}), at the cheapest "
        "threshold that keeps its accuracy on these samples, which is optimistic."
    )
    lines = [legend]
    if result.voters:
        lines.append(
            f"agreement: with the answers of {', '.join(map(repr, result.voters))}, whose {unit} "
            "are in its figures and in those of no other score."
        )
    if held:
        lines.append(
            f"* the cheapest threshold with the accuracy of {large!r} on "
            f"{counted(result.fitted_on, 'other sample')}, and its figures on these."
        )
    if result.missing is not None:
        lines.append(f"No learned score: {result.missing}.")
    show(table, *lines, *notes)


def scores_csv(result: ScoreComparison) -> str:
    """The content of `scores.csv`: one row per score, each figure with its 95 % interval."""
    return columns_csv(result.columns())


def scores_summary(result: ScoreComparison, records: Sequence[Record]) -> dict[str, Any]:
    """The content of `summary.json`."""
    unit = result.unit
    return {
        "n": result.n,
        "voters": list(result.voters),
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
        else result.learned.summary() | {"head": result.learned.head.numbers},
        "missing": result.missing,
        "provenance": provenance(records),
    }


def print_fitted_scores(result: Calibration) -> None:
    """Print what learned scores or norms were fitted on, and whether they help held out."""
    table, legend = _heads_table(result) if result.heads else _norms_table(result)
    show(table, legend, f"{result.learned_verdict} Judged {result.plan.text}.", *result.notes)


def _heads_table(result: Calibration) -> tuple[Table, str]:
    table = Table(
        "Learned score: samples that only one stage has right",
        "stage", "samples", "only last right", "only this right",
        Column("inverse penalty", detail=2), Column("spread of answers", detail=1),
        "area of confidence", "learned",
    )  # fmt: skip
    for name, one in result.heads.items():
        areas = (f"{area:.3f}" if isfinite(area) else "" for area in (one.area_before, one.area))
        spread = f"{one.spread:g}" if one.spread else "no effect"
        table.add_row(
            name, f"{one.n:,}", f"{one.fixed:,}", f"{one.broken:,}", f"{one.strength:g}", spread,
            *areas,
        )  # fmt: skip
    return table, (
        "Area: 0 is random deferral, 1 the oracle; on the fitting samples, which is optimistic for "
        "the learned score. Spread of answers: standard deviation to which the effects of the "
        "predicted classes are shrunk, in log-odds."
    )


def _norms_table(result: Calibration) -> tuple[Table, str]:
    table = Table(
        "Norms of the score max_logit_pnorm",
        "stage", "samples", "p", "AURC of max_softmax", "AURC",
    )  # fmt: skip
    for name, one in result.norms.items():
        p = "none" if isinstance(one.norm, str) else f"{one.norm:g}"
        table.add_row(name, f"{one.n:,}", p, _number(one.aurc_before), _number(one.aurc))
    return table, (
        "AURC: less is better; on the fitting samples, which is optimistic. With p none no norm is "
        "better than max_softmax, which the stage has instead."
    )


def draw_scores(result: ScoreComparison, data: Mapping[str, Any]) -> bytes:
    """Accuracy against deferral rate of every score as a PNG, with random and oracle deferral."""
    figure = figure_of(6.4, 4.2)
    axes = result.plot(figure.add_subplot())
    where = f"{data_title(data)} ({counted(result.n, 'sample')})"
    axes.set_title(literal(f"{' → '.join(result.names)} on {where}"), fontsize=10)
    return png_of(figure)
