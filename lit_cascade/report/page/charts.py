"""The charts of the page, as Vega-Lite; their colours are the page's own, light or dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from lit_cascade.report.page.sweep import Sweep
from lit_cascade.utilities.units import (
    cost_axis,
    cost_figure,
    is_money,
    metric_axis,
    metric_figure,
)

ACCENT, PROMISE, INK, MUTED, MARK, GRID, PAGE = (
    f"var(--{name})" for name in ("accent", "promise", "ink", "muted", "mark", "grid", "page")
)
_AT = "datum.i == at"
"""Whether a row is that of the slider, or the one that was clicked."""


def _x(unit: str, values: Sequence[float]) -> alt.X:
    """The axis of costs."""
    kind: Any = "log" if min(values) > 0 else "linear"
    axis = alt.Axis(format="~s", tickCount=6, labelOverlap="greedy")
    return alt.X(
        "x:Q", title=cost_axis(unit), scale=alt.Scale(type=kind, nice=False, padding=16), axis=axis
    )


def _y(title: str) -> alt.Y:
    return alt.Y(
        "y:Q", title=title, scale=alt.Scale(zero=False, padding=24), axis=alt.Axis(tickCount=6)
    )


def _chart(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(map(dict, rows))))


def _spec(*layers: alt.Chart, at: int, height: int = 320) -> dict[str, Any]:
    chart = alt.layer(*layers).add_params(alt.param(name="at", value=at))
    room = {"left": 4, "right": 16, "top": 4, "bottom": 4}  # for half a label beyond the axis
    chart = chart.properties(width="container", height=height, padding=room)
    chart.config = alt.Config(
        background="transparent",
        font="system-ui, sans-serif",
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelColor=MUTED, titleColor=MUTED, tickColor=GRID, domainColor=GRID, gridColor=GRID,
            labelFontSize=12, titleFontSize=12, titleFontWeight="normal",
        ),
    )  # fmt: skip
    return dict(chart.to_dict())


def _shown(cost: float, unit: str) -> float:
    return 1e6 * cost if is_money(unit) else cost


def _models(models: Sequence[tuple[str, float, float]], unit: str, by: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "x": _shown(cost, unit), "y": 100 * value,
         "cost": cost_figure(cost, unit), "value": metric_figure(by, value)}
        for name, cost, value in models
    ]  # fmt: skip


def _dots(
    models: Sequence[Mapping[str, Any]], x: alt.X, y: alt.Y, value: str, *, named: bool
) -> list[alt.Chart]:
    """Models alone as dots, with their names beside them or where one points at them."""
    base = _chart(models).encode(x=x, y=y)
    tips = [
        alt.Tooltip("name:N", title="model"),
        alt.Tooltip("value:N", title=value),
        alt.Tooltip("cost:N", title="cost"),
    ]
    layers = [base.mark_circle(size=90, color=INK, opacity=1).encode(tooltip=tips)]
    if named:  # the last one to its left, where the picture ends
        for some, side in ((models[:-1], 1), (models[-1:], -1)):
            text = _chart(some).encode(x=x, y=y, text="name:N")
            align: Any = "left" if side > 0 else "right"
            layers.append(
                text.mark_text(align=align, dx=9 * side, dy=13 * side, color=INK, fontSize=12)
            )
    return layers


def sweep_chart(
    sweep: Sweep, rows: Sequence[int], stages: Sequence[tuple[str, float, float]], at: int
) -> dict[str, Any]:
    """Accuracy against cost at every threshold; the parameter `at` is the row of the slider."""
    unit, by = sweep.unit, sweep.by
    costs, heights = sweep.figures["cost"][rows].tolist(), (100 * sweep.figures[by][rows]).tolist()
    kept = [None] * len(rows) if sweep.promised is None else sweep.promised[rows].tolist()
    values = [
        {"i": i, "x": _shown(cost, unit), "y": round(height, 4), **({"kept": 1} if keeps else {})}
        for i, (cost, height, keeps) in enumerate(zip(costs, heights, kept, strict=True))
    ]
    models = _models(stages, unit, by)
    x = _x(unit, [one["x"] for one in (*values, *models)])
    y = _y(metric_axis(by))
    base = _chart(values).encode(x=x, y=y, order=alt.Order("i:Q"))
    certified = base.transform_filter("datum.kept == 1")
    if sweep.one:
        line = base.mark_line(interpolate="step-after", color=ACCENT, strokeWidth=2)
        promised = certified.mark_line(interpolate="step-after", color=PROMISE, strokeWidth=5)
    else:  # candidates with several thresholds are no line
        line = base.mark_circle(color=ACCENT, size=14)
        promised = certified.mark_circle(color=PROMISE, size=30, opacity=1)
    marks = [line, *([] if sweep.promised is None else [promised])]
    chosen = base.transform_filter(f"datum.i == {at}").mark_point(
        shape="diamond", size=260, filled=True, color=MARK, opacity=1, stroke=PAGE
    )
    moving = base.transform_filter(_AT).mark_point(size=260, color=INK, strokeWidth=2.5, opacity=1)
    return _spec(*marks, *_dots(models, x, y, by, named=True), chosen, moving, at=at)


def front_chart(
    points: Sequence[Mapping[str, Any]],
    models: Sequence[tuple[str, float, float]],
    unit: str,
    at: int,
) -> dict[str, Any]:
    """The front of a search; a click on a point sets the parameter `at`."""
    values = [{**one, "x": _shown(one["x"], unit), "y": 100 * one["y"]} for one in points]
    places = {one["stages"]: {"i": one["i"]} for one in points}
    alone = [one | places.get(one["name"], {}) for one in _models(models, unit, "accuracy")]
    x = _x(unit, [one["x"] for one in (*values, *alone)])
    y = _y(metric_axis("accuracy"))
    base = _chart(values).encode(x=x, y=y)
    tips = [alt.Tooltip(f"{name}:N") for name in ("stages", "thresholds", "accuracy", "cost")]
    listed = base.transform_filter("datum.listed == 1").encode(tooltip=tips)
    layers = [
        base.mark_circle(size=50, color=ACCENT, opacity=0.45, cursor="pointer").encode(
            tooltip=tips
        ),
        *_dots(alone, x, y, "accuracy", named=False),
        listed.mark_point(shape="diamond", size=160, filled=True, color=ACCENT, opacity=1,
                          stroke=PAGE, cursor="pointer"),
        base.transform_filter(_AT).mark_point(size=300, color=MARK, strokeWidth=3, opacity=1),
    ]  # fmt: skip
    return _spec(*layers, at=at)


def interval_chart(rows: Sequence[Mapping[str, Any]], title: str) -> dict[str, Any]:
    """Values with their intervals, one below the other: `name`, `value`, `low` and `high`."""
    base = _chart(rows)
    y = alt.Y(
        "name:N", title=None, sort=None, axis=alt.Axis(labelLimit=180, ticks=False, domain=False)
    )
    x = alt.X("low:Q", title=title, scale=alt.Scale(zero=False, padding=14))
    return _spec(
        base.mark_rule(color=ACCENT, strokeWidth=2).encode(x=x, x2="high:Q", y=y),
        base.mark_circle(color=ACCENT, size=110, opacity=1).encode(x="value:Q", y=y),
        at=0, height=34 * len(rows) + 20,
    )  # fmt: skip
