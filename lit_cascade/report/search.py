"""The result of `search`: the Pareto front of a zoo and the average compute reductions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lit_cascade.analysis import Pick, Reduction, SearchResult, Strategy
from lit_cascade.core import AGREEMENT, readable_threshold
from lit_cascade.core.search import Front, HeldOut
from lit_cascade.report.pictures import figure_of, png_of
from lit_cascade.report.text import (
    Column,
    Table,
    columns_csv,
    cost_cells,
    cost_columns,
    data_title,
    show,
)
from lit_cascade.utilities.drawing import literal
from lit_cascade.utilities.text import as_cell
from lit_cascade.utilities.units import counted, percent, total_figure, unit_label


def frontier_csv(result: SearchResult) -> str:
    """The content of `frontier.csv`: the columns of the result, one row per point of the front.

    Stages, thresholds and floors are joined by semicolons.
    """
    columns = result.columns()
    for name in ("stages", "thresholds", "floors"):
        if name in columns:
            columns[name] = [";".join(as_cell(str(one)) for one in row) for row in columns[name]]
    return columns_csv(columns)


def _held_out_summary(result: HeldOut | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "chosen": result.chosen,
        "reported": result.reported,
        "reported_interpolated": result.reported_interpolated,
        "optimism": result.optimism,
        "interval_95": result.interval,
        "spread": result.spread,
        "accuracy_shortfall": result.shortfall,
        "repeats": result.repeats,
    }


def _reduction_summary(result: Reduction) -> dict[str, Any]:
    return {
        "name": result.band.name,
        "low": result.band.low,
        "high": result.band.high,
        "average_compute_reduction": result.chosen,
        "average_compute_reduction_interpolated": result.interpolated,
        "held_out": _held_out_summary(result.held_out),
    }


def strategy_summary(strategies: Sequence[Strategy]) -> dict[str, Any]:
    """Average compute reductions by the name of the way, band by band."""
    return {
        strategy.name: [_reduction_summary(reduction) for reduction in strategy.reductions]
        for strategy in strategies
    }


def _pick_summary(
    result: SearchResult, pick: Pick, config: str | None, calls: float | None
) -> dict[str, Any]:
    unit = result.protocol.chosen_on.unit
    names = [result.zoo.names[model] for model in pick.point.stages]
    return {
        "stages": names,
        "thresholds": dict(zip(names, pick.point.thresholds, strict=False)),
        "floors": dict(zip(names, pick.point.floors, strict=False)),
        unit: pick.cost,
        "accuracy": pick.accuracy,
        f"chosen_{unit}": pick.point.cost,
        "chosen_accuracy": pick.point.accuracy,
        "single": pick.single,
        "saving": pick.saving,
        "accuracy_difference": pick.difference,
        "held_out": None if pick.held_out is None else asdict(pick.held_out),
        "config": config,
        **({} if calls is None else {"per_month": _month(pick, calls)}),
    }


def _month(pick: Pick, calls: float) -> dict[str, Any]:
    """Costs of a month's calls, and what is saved of them, also held out."""
    held_out = pick.held_out
    return {
        "calls": calls,
        "single": calls * (pick.cost + pick.saved),
        "cascade": calls * pick.cost,
        "saved": calls * pick.saved,
        "held_out": None
        if held_out is None
        else {
            "saved": calls * held_out.saved,
            "interval_95": [calls * end for end in held_out.saved_interval],
        },
    }


def frontier_summary(
    result: SearchResult, configs: Mapping[Pick, str], calls: float | None = None
) -> dict[str, Any]:
    """The content of `summary.json`; with a number of calls, what they cost a month, too."""
    chosen = result.protocol.chosen_on
    unit = chosen.unit
    reported = result.protocol.reported_on or chosen
    return {
        "unit": unit,
        "rule": asdict(result.rule),
        "settings": asdict(result.settings),
        "n": result.zoo.n,
        "chosen_on": {"n": chosen.n, "data": _named(chosen.data)},
        "reported_on": {"n": reported.n, "data": _named(reported.data)},
        "same_samples": not result.apart,
        "holdout": None if result.apart else result.protocol.holdout,
        "models": [
            {
                "name": model.name,
                unit: float(cost),
                "accuracy": float(accuracy),
                "parameters": model.parameters,
                "temperature": temperature,
                "norm": norm,
            }
            for model, cost, accuracy, temperature, norm in zip(
                chosen.models,
                result.zoo.mean_cost,
                result.zoo.accuracy,
                result.temperatures,
                result.norms or (None,) * len(chosen),
                strict=True,
            )
        ],
        "points": len(result.cascades),
        "bands": [_reduction_summary(reduction) for reduction in result.strategies[0].reductions],
        "baselines": strategy_summary(result.strategies[1:]),
        "shared_threshold": result.shared,
        "cascades": [
            _pick_summary(result, pick, configs.get(pick), calls) for pick in result.picks
        ],
        "provenance": {
            "chosen_on": chosen.samples.fingerprint,
            "reported_on": reported.samples.fingerprint,
            "models": {model.name: dict(model.model) for model in chosen.models},
            "recorded": {model.name: dict(model.info) for model in chosen.models},
        },
    }


def _named(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: data.get(key) for key in ("name", "split", "source")}


def _thresholds_of(result: SearchResult, pick: Pick) -> str:
    """The shortest decimals that defer the same samples; `votes` for a stage that never answers."""
    shown, stages = [], pick.point.stages
    for k, threshold in enumerate(pick.point.thresholds):
        if _votes(result, threshold):
            shown.append("votes")
            continue
        scores = result.zoo.score_of(stages[:k], stages[k]).double()
        lower = scores[scores < threshold]
        below = float(lower.max()) if len(lower) else -float("inf")
        shown.append(readable_threshold(threshold, below))
    return ", ".join(shown)


def _votes(result: SearchResult, threshold: float) -> bool:
    return result.rule.score == AGREEMENT.name and threshold == math.inf


def print_frontier(
    result: SearchResult,
    configs: Mapping[Pick, str],
    notes: Sequence[str] = (),
    calls: float | None = None,
) -> None:
    """Print the front, the average compute reductions, the verdicts and the notes.

    Args:
        result: of a search.
        configs: names of the files of its cascades.
        notes: sentences to print at the end.
        calls: number of calls in a month, for a table of what they cost.
    """
    protocol = result.protocol
    unit = protocol.chosen_on.unit
    reported = protocol.reported_on or protocol.chosen_on
    where = f"{data_title(reported.data)}: {counted(reported.n, 'sample')}"
    table = Table(
        f"The front of {counted(len(result.zoo), 'model')} on {where}",
        "stages", "thresholds", *cost_columns(unit), "accuracy",
        *([Column("promised", detail=1)] if result.apart else []), "saving",
        Column("than", detail=2), Column("points", detail=2), "config",
    )  # fmt: skip
    for pick in result.picks:
        table.add_row(
            _stages_of(result, pick),
            _thresholds_of(result, pick),
            *cost_cells(pick.cost, unit),
            percent(pick.accuracy, 2),
            *([percent(pick.point.accuracy, 2)] if result.apart else []),
            *_against(pick),
            configs.get(pick, ""),
        )
    show(
        table,
        "Saving: cost of the cheapest single model of equal accuracy over that of the cascade; "
        "points: accuracy of the cascade minus that of the single model.",
        *_scores_explained(result),
    )
    if calls is not None:
        _print_month(result, calls, configs)
    print_comparison(result.strategies, result)
    show(*_verdicts(result), *notes)


def _print_month(result: SearchResult, calls: float, configs: Mapping[Pick, str]) -> None:
    """Print what a month's calls cost by single models, and by cascades instead of them."""
    unit, honest = result.protocol.chosen_on.unit, result.protocol.holds_out
    table = Table(
        f"{calls:,.0f} calls a month, in {unit_label(unit)}",
        "config", "instead of", "a month", Column("saved", detail=1),
        *(["held out", "95 %", "points"] if honest else []),
    )  # fmt: skip
    for pick in result.picks:
        if len(pick.point.stages) == 1:
            continue
        bill = [calls * (pick.cost + pick.saved), calls * pick.cost]
        figures = [" -> ".join(total_figure(one, unit) for one in bill)]
        figures.append(total_figure(calls * pick.saved, unit))
        if honest and pick.held_out is None:
            figures += ["", "", ""]
        elif pick.held_out is not None:
            ends = (total_figure(calls * end, unit) for end in pick.held_out.saved_interval)
            figures.append(total_figure(calls * pick.held_out.saved, unit))
            figures += [" to ".join(ends), f"{100 * pick.held_out.difference:+.2f}"]
        table.add_row(configs.get(pick) or _stages_of(result, pick), pick.single, *figures)
    held_out = (
        "Held out: saved by cascades of at least the model's accuracy on some samples, measured on "
        "others; points: their accuracy there minus the model's."
    )
    estimate = "These are estimates: what is promised, select tells."
    show(table, *([held_out] if honest else []), estimate)


def _stages_of(result: SearchResult, pick: Pick) -> str:
    return " → ".join(result.zoo.names[model] for model in pick.point.stages)


def _scores_explained(result: SearchResult) -> list[str]:
    """What thresholds of agreement mean, where there are any."""
    if result.rule.score != AGREEMENT.name:
        return []
    said = "Thresholds: a score is the stage's confidence, plus 1 where an earlier stage agrees"
    limits = [limit for pick in result.picks for limit in pick.point.thresholds]
    voters = any(_votes(result, limit) for limit in limits)
    return [said + ("; a stage that votes never answers itself." if voters else ".")]


def _against(pick: Pick) -> list[str]:
    """Saving, the single model compared with, and the difference of their accuracies."""
    if len(pick.point.stages) == 1:
        return ["", "", ""]
    saving = f"{pick.saving:.2f}x" if math.isfinite(pick.saving) else "infinite"
    return [saving, pick.single, f"{100 * pick.difference:+.2f}"]


def _cells(reduction: Reduction, *, honest: bool) -> list[str]:
    held_out = reduction.held_out
    cells = [f"{reduction.chosen:.2f}x"]
    if honest:
        cells += (
            ["", ""]
            if held_out is None
            else [
                f"{held_out.reported:.2f}x",
                f"{held_out.interval[0]:.2f} to {held_out.interval[1]:.2f}",
            ]
        )
    return cells


def print_comparison(strategies: Sequence[Strategy], result: SearchResult) -> None:
    """Print the average compute reduction of each strategy, band by band."""
    honest = result.protocol.holds_out
    bands = [reduction.band for reduction in strategies[0].reductions]
    columns = []
    for band in bands:
        what = band.name or f"{percent(band.low)} to {percent(band.high)}"
        columns += [what, *(["held out", "95 %"] if honest else [])]
    table = Table("Average compute reduction at equal accuracy", "", *columns)
    for strategy in strategies:
        cells = [_cells(reduction, honest=honest) for reduction in strategy.reductions]
        table.add_row(strategy.name, *[cell for some in cells for cell in some])
    ranges = (f"{band.name}: {percent(band.low)} to {percent(band.high)}" for band in bands)
    show(table, f"Bands of accuracy: {'; '.join(ranges)}.")


def _verdicts(result: SearchResult) -> list[str]:
    what = unit_label(result.protocol.chosen_on.unit)
    sentences = []
    for reduction in result.strategies[0].reductions:
        held_out, band = reduction.held_out, reduction.band
        if held_out is None or not result.protocol.holds_out:
            continue
        sentences.append(
            f"{(band.name or 'Band').capitalize()}: {held_out.reported:.2f}x fewer {what} than a "
            f"single model of equal accuracy ({held_out.interval[0]:.2f} to "
            f"{held_out.interval[1]:.2f}), {held_out.reported_interpolated:.2f}x against their "
            "interpolated front. On the samples of the choice, figures are optimistic by "
            f"{held_out.optimism:+.2f}x and {100 * held_out.shortfall:+.2f} points of accuracy."
        )
    protocol = result.protocol
    if result.apart:
        split = protocol.chosen_on.data.get("split")
        fitted = [name for name, wanted in result.rule.fitted.items() if wanted]
        sentences.append(
            f"{', '.join(['Models', *fitted])} and thresholds were chosen "
            f"on the split {split!r} ({counted(protocol.chosen_on.n, 'sample')}), which also "
            "promised the accuracies."
        )
    elif protocol.holds_out:
        sentences.append(
            f"Held out: chosen on {percent(1 - protocol.holdout, 0)} of the samples and reported "
            f"on the rest, {counted(protocol.repeats, 'time')}. The front above was chosen on all "
            "of the samples that it is reported on, so its rows are optimistic by about as much."
        )
    else:
        sentences.append(
            "These figures are those of the samples that models and thresholds were chosen on, "
            "which is optimistic. --holdout 0.5 shows by how much."
        )
    return sentences


def draw_frontier(result: SearchResult, published: Front | None = None) -> bytes:
    """Accuracy against cost as a PNG, beside the front of published models if there is one."""
    figure = figure_of(7.2, 5.0)
    axes = result.plot(figure.add_subplot(), published=published)
    where = result.protocol.reported_on or result.protocol.chosen_on
    models, samples = counted(len(result.zoo), "model"), counted(result.zoo.n, "sample")
    title = f"{models} on {data_title(where.data)} ({samples})"
    axes.set_title(literal(title), fontsize=10)
    return png_of(figure)
