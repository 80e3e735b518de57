"""The result of `screen`: published models worth recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_cascade.analysis import (
    Criteria,
    PublishedModel,
    PublishedTable,
    ScreenedModel,
    Screening,
    least_missed,
)
from lit_cascade.report.pictures import figure_of, png_of
from lit_cascade.report.text import Column, Table, cost_cells, cost_columns, csv_text, show
from lit_cascade.utilities.drawing import BLACK, BLUE, LIGHT_GREY, along_cost, name_points, quiet
from lit_cascade.utilities.units import percent, quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 30


def print_screen(result: Screening, unit: str, notes: Sequence[str] = ()) -> None:
    """Print the models in order of cost, and the notes."""
    table = Table(
        f"Published models worth recording: {len(result.kept):,}",
        "model", "image size", "accuracy", *cost_columns(unit), Column("parameters", detail=1),
        "below front",
    )  # fmt: skip
    for kept in result.kept:
        model = kept.model
        table.add_row(
            model.name,
            "" if model.img_size is None else str(model.img_size),
            percent(model.accuracy, 2),
            *cost_cells(model.cost, unit),
            "unknown" if model.parameters is None else quantity(model.parameters),
            "front" if kept.on_front else f"{100 * kept.below:.2f}",
        )
    show(
        table,
        "Accuracy as published; below front: points less than the best model that costs no more.",
        *notes,
    )


def _columns(kept: ScreenedModel, unit: str) -> dict[str, Any]:
    """One row of `screen.csv`: values by column name."""
    model = kept.model
    return {
        "model": model.name,
        "img_size": model.img_size,
        "accuracy": model.accuracy,
        unit: model.cost,
        "parameters": None if model.parameters is None else round(model.parameters),
        "below_front": round(kept.below, 10),
    }


def screen_csv(result: Screening, unit: str) -> str:
    """The content of `screen.csv`: one row per model, in order of cost.

    Columns: `model, img_size, accuracy, flops, parameters, below_front`, the fourth named after the
    unit of the cost. Accuracies are shares; unknown values are empty.
    """
    rows = [_columns(kept, unit) for kept in result.kept]
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def screen_summary(
    published: PublishedTable,
    result: Screening,
    criteria: Criteria,
    tables: Mapping[str, Sequence[str]],
    unit: str,
) -> dict[str, Any]:
    """The content of `summary.json`."""
    return {
        "unit": unit,
        "tables": {
            argument.lstrip("-"): [Path(path).name for path in paths]
            for argument, paths in tables.items()
        },
        "settings": asdict(criteria),
        "published": len(published.models),
        "without_cost": published.without_cost,
        "unreadable": published.unreadable,
        "considered": len(result.pool),
        "in_band": result.in_band,
        "front": [
            {unit: cost, "accuracy": accuracy}
            for cost, accuracy in zip(
                result.front.cost.tolist(), result.front.accuracy.tolist(), strict=True
            )
        ],
        "kept": len(result.kept),
        "kept_on_front": sum(kept.on_front for kept in result.kept),
        "cut": result.cut,
        "models": [_columns(kept, unit) | {"on_front": kept.on_front} for kept in result.kept],
    }


def draw_screen(published: Sequence[PublishedModel], result: Screening, unit: str) -> bytes:
    """Accuracy against cost of all published models, also those not considered, as a PNG."""
    figure = figure_of(8.6, 5.6)
    axes = figure.add_subplot()
    _dots(
        axes, published, f"published models at each size ({len(published):,})", (LIGHT_GREY, 2.2, 2)
    )
    front = result.front
    axes.plot(
        front.cost, 100 * front.accuracy, color=BLACK, linewidth=1.1, drawstyle="steps-post",
        label=f"front of the {len(result.pool):,} considered", zorder=3,
    )  # fmt: skip
    chosen = [kept.model for kept in result.kept]
    _dots(axes, chosen, f"worth recording ({len(chosen):,})", (BLUE, 3.6, 4))
    along_cost(axes, unit)
    _zoom(axes, published, result)
    axes.set_ylabel("published accuracy (%)")
    quiet(axes)
    axes.legend(loc="lower right", fontsize=8, framealpha=0.9, edgecolor="none")
    axes.set_title(
        f"{len(chosen):,} of {len(result.pool):,} published models are worth recording", fontsize=10
    )
    _name(axes, [kept for kept in result.kept if kept.on_front])
    return png_of(figure)


def _dots(
    axes: Axes, models: Sequence[PublishedModel], label: str, look: tuple[str, float, int]
) -> None:
    colour, size, above = look
    axes.plot(
        [model.cost for model in models],
        [100 * model.accuracy for model in models],
        "o", color=colour, markersize=size, markeredgewidth=0, label=label, zorder=above,
    )  # fmt: skip


def _zoom(axes: Axes, published: Sequence[PublishedModel], result: Screening) -> None:
    """Limit the axes to the chosen models and their surroundings."""
    dearest = 2.5 * max(kept.model.cost for kept in result.kept)
    near = [model for model in published if model.cost <= dearest]
    top = 100 * max(model.accuracy for model in near)
    least = 100 * min(kept.model.accuracy for kept in result.kept)
    room = max(top - least, 1.0)
    low = max(least - 0.2 * room, 100 * min(model.accuracy for model in near) - 0.05 * room)
    axes.set_ylim(low, top + 0.12 * room)
    costs = [model.cost for model in near if 100 * model.accuracy >= low]
    axes.set_xlim(min(costs) / 2.5, max(costs) * 1.3)


def _name(axes: Axes, on_front: Sequence[ScreenedModel]) -> None:
    """Label points of the front where there is room, the most important for the front first."""
    points = [(kept.model.cost, kept.model.accuracy) for kept in on_front]
    order: list[int] = []
    for count in range(1, min(len(points), _MOST_NAMES) + 1):
        order += [place for place in least_missed(points, count) if place not in order]
    name_points(
        axes,
        [on_front[place].model.name.partition(".")[0] for place in order],
        [(points[place][0], 100 * points[place][1]) for place in order],
        side="above",  # above a rising front there is room
        size=6.5,
    )
