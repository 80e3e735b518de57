"""The result of `search`: the Pareto front of a zoo and the average compute reductions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lit_cascade.analysis import Pick, Reduction, SearchResult, Strategy
from lit_cascade.core.search import Front, HeldOut
from lit_cascade.report.pictures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    SKY_BLUE,
    VERMILION,
    figure_of,
    png_of,
    quiet,
)
from lit_cascade.report.text import (
    cost_cells,
    cost_columns,
    csv_text,
    data_title,
    new_table,
    percent,
    readable_threshold,
    show,
)
from lit_cascade.utilities.units import cost_axis, unit_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "draw_frontier",
    "frontier_csv",
    "frontier_summary",
    "print_comparison",
    "print_frontier",
    "strategy_summary",
]


def frontier_csv(found: SearchResult) -> str:
    """The content of `frontier.csv`: one row per point of the front.

    Columns: `flops` (named after the unit), `accuracy`, `stages`, `thresholds`, the last two joined
    by semicolons. With a window, `floors` follows. If the choice was made on other samples,
    `chosen_flops` and `chosen_accuracy` hold the figures of those samples.
    """
    unit = found.protocol.chosen_on.unit
    header = [unit, "accuracy", "stages", "thresholds"]
    header += ["floors"] if found.settings.window else []
    header += [f"chosen_{unit}", "chosen_accuracy"] if found.apart else []
    rows = []
    for point, cost, accuracy in zip(
        found.cascades.points,
        found.reported.cost.tolist(),
        found.reported.accuracy.tolist(),
        strict=True,
    ):
        row = [
            cost,
            accuracy,
            ";".join(found.zoo.names[model] for model in point.stages),
            ";".join(map(repr, point.thresholds)),
        ]
        row += [";".join(map(repr, point.floors))] if found.settings.window else []
        row += [point.cost, point.accuracy] if found.apart else []
        rows.append(row)
    return csv_text(header, rows)


def _held_out_summary(found: HeldOut | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "chosen": found.chosen,
        "reported": found.reported,
        "reported_interpolated": found.reported_interpolated,
        "optimism": found.optimism,
        "interval_95": found.interval,
        "spread": found.spread,
        "accuracy_shortfall": found.shortfall,
        "repeats": found.repeats,
    }


def _reduction_summary(found: Reduction) -> dict[str, Any]:
    return {
        "name": found.band.name,
        "low": found.band.low,
        "high": found.band.high,
        "average_compute_reduction": found.chosen,
        "average_compute_reduction_interpolated": found.interpolated,
        "held_out": _held_out_summary(found.held_out),
    }


def strategy_summary(strategies: Sequence[Strategy]) -> dict[str, Any]:
    """Average compute reductions by the name of the way, band by band."""
    return {
        strategy.name: [_reduction_summary(reduction) for reduction in strategy.reductions]
        for strategy in strategies
    }


def _pick_summary(found: SearchResult, pick: Pick, config: str | None) -> dict[str, Any]:
    unit = found.protocol.chosen_on.unit
    names = [found.zoo.names[model] for model in pick.point.stages]
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
        "config": config,
    }


def frontier_summary(found: SearchResult, configs: Mapping[Pick, str]) -> dict[str, Any]:
    """The content of `summary.json`."""
    chosen = found.protocol.chosen_on
    unit = chosen.unit
    reported = found.protocol.reported_on or chosen
    return {
        "unit": unit,
        "rule": asdict(found.rule),
        "settings": asdict(found.settings),
        "n": found.zoo.n,
        "chosen_on": {"n": chosen.n, "data": _named(chosen.data)},
        "reported_on": {"n": reported.n, "data": _named(reported.data)},
        "same_samples": not found.apart,
        "holdout": None if found.apart else found.protocol.holdout,
        "models": [
            {
                "name": model.name,
                unit: float(cost),
                "accuracy": float(accuracy),
                "parameters": model.parameters,
                "temperature": temperature,
            }
            for model, cost, accuracy, temperature in zip(
                chosen.models,
                found.zoo.mean_cost,
                found.zoo.accuracy,
                found.temperatures,
                strict=True,
            )
        ],
        "points": len(found.cascades),
        "bands": [_reduction_summary(reduction) for reduction in found.strategies[0].reductions],
        "baselines": strategy_summary(found.strategies[1:]),
        "shared_threshold": found.shared,
        "cascades": [_pick_summary(found, pick, configs.get(pick)) for pick in found.picks],
        "provenance": {
            "chosen_on": chosen.samples.fingerprint,
            "reported_on": reported.samples.fingerprint,
            "models": {model.name: dict(model.model) for model in chosen.models},
            "recorded": {model.name: dict(model.info) for model in chosen.models},
        },
    }


def _named(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: data.get(key) for key in ("name", "split", "source")}


def _thresholds_of(found: SearchResult, pick: Pick) -> str:
    """The shortest decimals that defer the same samples."""
    shown = []
    for model, threshold in zip(pick.point.stages, pick.point.thresholds, strict=False):
        scores = found.zoo.scores[model].double()
        lower = scores[scores < threshold]
        below = float(lower.max()) if len(lower) else -float("inf")
        shown.append(readable_threshold(threshold, below))
    return ", ".join(shown)


def print_frontier(
    found: SearchResult, configs: Mapping[Pick, str], notes: Sequence[str] = ()
) -> None:
    """Print the front, the average compute reductions, the verdicts and the notes."""
    protocol = found.protocol
    unit = protocol.chosen_on.unit
    reported = protocol.reported_on or protocol.chosen_on
    where = f"{data_title(reported.data)}: {reported.n:,} samples"
    table = new_table(
        f"The front of {len(found.zoo)} models on {where}",
        "stages", "thresholds", *cost_columns(unit), "accuracy",
        *(["promised"] if found.apart else []), "saving", "than", "points", "config",
    )  # fmt: skip
    for pick in found.picks:
        table.add_row(
            " → ".join(found.zoo.names[model] for model in pick.point.stages),
            _thresholds_of(found, pick),
            *cost_cells(pick.cost, unit),
            percent(pick.accuracy, 2),
            *([percent(pick.point.accuracy, 2)] if found.apart else []),
            *_against(pick),
            configs.get(pick, ""),
        )
    show(
        table,
        "Saving: cost of the cheapest single model of equal accuracy over that of the cascade; "
        "points: accuracy of the cascade minus that of the single model.",
    )
    print_comparison(found.strategies, found)
    show(*_verdicts(found), *notes)


def _against(pick: Pick) -> list[str]:
    """Saving, the single model compared with, and the difference of their accuracies."""
    if len(pick.point.stages) == 1:
        return ["", "", ""]
    return [f"{pick.saving:.2f}x", pick.single, f"{100 * pick.difference:+.2f}"]


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


def print_comparison(strategies: Sequence[Strategy], found: SearchResult) -> None:
    """Print the average compute reduction of each strategy, band by band."""
    honest = found.protocol.holds_out
    bands = [reduction.band for reduction in strategies[0].reductions]
    columns = []
    for band in bands:
        what = band.name or f"{percent(band.low)} to {percent(band.high)}"
        columns += [what, *(["held out", "95 %"] if honest else [])]
    table = new_table("Average compute reduction at equal accuracy", "", *columns)
    for strategy in strategies:
        cells = [_cells(reduction, honest=honest) for reduction in strategy.reductions]
        table.add_row(strategy.name, *[cell for some in cells for cell in some])
    ranges = (f"{band.name}: {percent(band.low)} to {percent(band.high)}" for band in bands)
    show(table, f"Bands of accuracy: {'; '.join(ranges)}.")


def _verdicts(found: SearchResult) -> list[str]:
    what = unit_label(found.protocol.chosen_on.unit)
    sentences = []
    for reduction in found.strategies[0].reductions:
        held_out, band = reduction.held_out, reduction.band
        if held_out is None or not found.protocol.holds_out:
            continue
        sentences.append(
            f"{(band.name or 'Band').capitalize()}: {held_out.reported:.2f}x fewer {what} than a "
            f"single model of equal accuracy ({held_out.interval[0]:.2f} to "
            f"{held_out.interval[1]:.2f}), {held_out.reported_interpolated:.2f}x against their "
            "interpolated front. On the samples of the choice, figures are optimistic by "
            f"{held_out.optimism:+.2f}x and {100 * held_out.shortfall:+.2f} points of accuracy."
        )
    protocol = found.protocol
    if found.apart:
        split = protocol.chosen_on.data.get("split")
        sentences.append(
            f"Models{', temperatures' if found.rule.calibrate else ''} and thresholds were chosen "
            f"on the split {split!r} ({protocol.chosen_on.n:,} samples), which also promised the "
            "accuracies."
        )
    elif protocol.holds_out:
        sentences.append(
            f"Held out: chosen on {percent(1 - protocol.holdout, 0)} of the samples and reported "
            f"on the rest, {protocol.repeats} times. The front above was chosen on all of the "
            "samples that it is reported on, so its rows are optimistic by about as much."
        )
    else:
        sentences.append(
            "These figures are those of the samples that models and thresholds were chosen on, "
            "which is optimistic. --holdout 0.5 shows by how much."
        )
    return sentences


# bounds and expectations are drawn thinner than attainable fronts
_FOUND = (BLUE, "-", 2.0)
_LOOKS = {
    "cascades of up to 2": (SKY_BLUE, "-", 1.4),
    "cascades of up to 2, no window": (SKY_BLUE, "-", 1.4),
    "neighbouring pairs only": (GREEN, "-.", 1.2),
    "one threshold for all pairs": (VERMILION, "--", 1.2),
    "random deferral": (GREY, "--", 1.2),
    "oracle deferral (bound)": (BLACK, ":", 1.2),
}
_LABELLED = 30
_FEW = 60


def draw_frontier(found: SearchResult, published: Front | None = None) -> bytes:
    """Accuracy against cost as a PNG, beside the front of published models if there is one."""
    figure = figure_of(7.2, 5.0)
    axes = figure.add_subplot()
    chosen_on = found.protocol.chosen_on
    where = found.protocol.reported_on or chosen_on
    # between two points there is no cascade, so the curve is a step; on other samples than those of
    # the choice it need not rise
    steps = "default" if found.apart else "steps-post"
    fronts = []
    for number, strategy in enumerate(found.strategies):
        chosen = strategy.reductions[0].held_out is not None
        look = _LOOKS[strategy.name] if number else _FOUND
        if found.apart and chosen and len(strategy.points) < _FEW:
            look = (look[0], "x", look[2])  # a line would suggest points in between
        fronts.append((strategy.points, strategy.name, look, steps if chosen else "steps-post"))
    fronts.append((found.singles, "single models", (BLACK, "-", 1.2), "steps-post"))
    if published is not None:
        fronts.append((published, "published single models", (GREY, "-.", 1.2), "steps-post"))
    for front, label, look, style in fronts:
        colour, line, width = look
        axes.plot(
            front.cost, 100 * front.accuracy, line, drawstyle=style, color=colour, label=label,
            linewidth=width, zorder=3,
        )  # fmt: skip
    axes.set_xscale("log")
    low, high = 100 * float(found.zoo.accuracy.min()), 100 * float(found.reported.accuracy.max())
    room = 0.06 * max(high - low, 1.0)
    axes.set_ylim(low - room, high + 2 * room)
    _mark_models(axes, found)
    axes.set_xlabel(cost_axis(chosen_on.unit))
    axes.set_ylabel("accuracy (%)")
    quiet(axes, "both")
    axes.margins(x=0.08)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    title = f"{len(found.zoo)} models on {data_title(where.data)} ({found.zoo.n:,} samples)"
    axes.set_title(title, fontsize=10)
    return png_of(figure)


def _mark_models(axes: Axes, found: SearchResult) -> None:
    """Draw a dot per model; label all of them if they are few, else those of the front."""
    cost, accuracy = found.zoo.mean_cost.tolist(), (100 * found.zoo.accuracy).tolist()
    axes.plot(cost, accuracy, "o", color=BLACK, markersize=4, zorder=5)
    named = range(len(cost)) if len(cost) <= _LABELLED else found.zoo.singles()[1]
    for model in named:
        axes.annotate(
            found.zoo.names[model],
            (cost[model], accuracy[model]),
            textcoords="offset points",
            xytext=(5, -9),
            fontsize=7,
        )
