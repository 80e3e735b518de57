"""The picture of a cascade."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lit_cascade.analysis import judge
from lit_cascade.core import Curve, oracle_deferral, random_deferral
from lit_cascade.report.pictures import figure_of, png_of, quiet
from lit_cascade.utilities.units import cost_axis, metric_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lit_cascade.report.summary import Validation

__all__ = ["draw_curve"]

_BLUE, _ORANGE, _GREY, _BLACK = (
    "#0072b2",
    "#d55e00",
    "#7f7f7f",
    "#222222",
)  # safe for the colour-blind


def _steps(axes: Axes, curve: Curve, by: str, label: str, colour: str, style: str = "-") -> None:
    # a step holds an accuracy until the next point is paid for: nothing between points exists
    axes.plot(
        curve.cost, 100 * curve.judged_by(by)[0], style, drawstyle="steps-post", color=colour,
        label=label, linewidth=1.8, zorder=3,
    )  # fmt: skip


def draw_curve(found: Validation) -> bytes:
    """Accuracy against FLOPs as a PNG: stages, cascade, random deferral and the oracle's bound.

    The two comparisons are drawn for two stages, for which they are defined. If the curve has
    another metric, a second panel shows it, without the comparisons: they are of accuracy.

    Args:
        found: the judged cascade.

    Returns:
        The content of the PNG file.
    """
    metrics = ["accuracy"] if found.curve.metric is None else ["accuracy", found.curve.metric]
    width = 6.4 if len(metrics) == 1 else 10.4
    figure = figure_of(width, 4.2)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, by in zip(panels, metrics, strict=True):
        if by == "accuracy" and len(found.names) == 2:
            _comparisons(axes, found)
        _panel(axes, found, by)
    panels[0].legend(frameon=False, loc="best", fontsize=8)
    data, curve = found.records[0].data, found.curve
    if data.get("name"):
        title = (
            f"{' → '.join(found.names)} on {data['name']}, split '{data.get('split', '')}' "
            f"({curve.n:,} samples)"
        )
        if len(metrics) == 1:
            panels[0].set_title(title, fontsize=10)
        else:
            figure.suptitle(title, fontsize=10)
    return png_of(figure)


def _comparisons(axes: Axes, found: Validation) -> None:
    judged = judge(found.records, found.rule, found.unit)
    oracle = oracle_deferral(judged.correct, judged.costs)
    axes.plot(
        oracle.cost, 100 * oracle.accuracy, ":", color=_BLACK, linewidth=1.2,
        label="oracle deferral (bound)",
    )  # fmt: skip
    chance = random_deferral(found.curve)
    share = np.linspace(0, 1, 200)
    axes.plot(
        float(chance.cost[0]) + share * float(chance.cost[1] - chance.cost[0]),
        100 * (float(chance.accuracy[0]) + share * float(chance.accuracy.diff()[0])),
        "--", color=_GREY, linewidth=1.2, label="random deferral",
    )  # fmt: skip


def _panel(axes: Axes, found: Validation, by: str) -> None:
    curve, score = found.curve, found.rule.score
    if found.uncalibrated is None:
        _steps(axes, curve, by, f"cascade, {score}", _BLUE)
    else:
        _steps(axes, found.uncalibrated, by, f"cascade, {score}, T = 1", _ORANGE, "-.")
        _steps(axes, curve, by, f"cascade, {score}, calibrated", _BLUE)
    _mark_stages(axes, found, by)
    if found.policy is not None:
        reached = found.policy.accuracy if by == "accuracy" else found.policy.metric
        axes.plot(
            found.policy.cost, 100 * (reached or 0.0), "*", color=_ORANGE, markersize=13,
            markeredgecolor="white", zorder=6, label="the thresholds given",
        )  # fmt: skip
    axes.set_xscale("log" if bool((curve.cost > 0).all()) else "linear")
    axes.set_xlabel(cost_axis(found.unit))
    axes.set_ylabel(metric_axis(by))
    quiet(axes, "both")
    axes.margins(x=0.08, y=0.1)


def _mark_stages(axes: Axes, found: Validation, by: str) -> None:
    for k, name in enumerate(found.names):
        cost = float(found.curve.stage_cost[k])
        reached = 100 * float(found.curve.judged_by(by)[1][k])
        axes.plot(cost, reached, "o", color=_BLACK, markersize=6, zorder=5)
        axes.annotate(
            name,
            (cost, reached),
            textcoords="offset points",
            xytext=(0, -8),
            ha="center",
            va="top",
            fontsize=9,
        )
