"""The part of `search`: a front whose cascades are shown by a click."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lit_cascade.report.page.charts import front_chart
from lit_cascade.report.page.folder import Results
from lit_cascade.report.page.parts import Part, PartTable, labelled, numbers, say, sources
from lit_cascade.report.text import data_title
from lit_cascade.utilities.units import (
    cost_figure,
    cost_heading,
    counted,
    fewer,
    percent,
    total_figure,
    unit_label,
)

_MOST_POINTS = 1000
"""Points of a front that are drawn, beside those with a config."""


def search_part(files: Results) -> Part:
    """The results of `search`."""
    summary = files.json()
    unit, picks = summary["unit"], summary["cascades"]
    configs = {one["config"]: files.config(one["config"]) for one in picks if one["config"]}
    by_key = {_key(one["stages"], one["thresholds"].values()): one["config"] for one in picks}
    columns = files.columns("frontier.csv")
    costs, heights = numbers(columns[unit]), numbers(columns["accuracy"])
    stages = [row.split(";") for row in columns["stages"]]
    limits = [[one for one in row.split(";") if one] for row in columns["thresholds"]]
    names = [by_key.get(_key(*row)) for row in zip(stages, limits, strict=True)]
    listed = {row for row, name in enumerate(names) if name}
    points, clicks = list[dict[str, Any]](), list[dict[str, str]]()
    for row in sorted(_spread(costs, _MOST_POINTS) | listed):
        shown = {
            "stages": " → ".join(stages[row]),
            "thresholds": ", ".join(f"{float(one):.6g}" for one in limits[row]) or "none",
            "accuracy": percent(heights[row], 2),
            "cost": f"{cost_figure(costs[row], unit)} {cost_heading(unit)}",
        }
        point = {"i": len(points), "x": costs[row], "y": heights[row], **shown}
        points.append(point | ({"listed": 1} if names[row] else {}))
        text = "" if names[row] else _options(stages[row], limits[row])
        clicks.append(shown | {"file": names[row] or "", "text": text})
    paying = [one for one in picks if one["config"]]
    top = max(one["accuracy"] for one in summary["models"])
    as_good = [one for one in paying if one["accuracy"] >= top]
    # the cheapest that replaces the best model, else the one that saves most
    best = min(as_good, key=lambda one: float(one[unit]), default=None) or max(
        paying, key=lambda one: float(one["saving"]), default=None
    )
    at = next((i for i, one in enumerate(clicks) if best and one["file"] == best["config"]), 0)
    models = [(one["name"], one[unit], one["accuracy"]) for one in summary["models"]]
    reported, chosen = (
        f"{data_title(summary[key]['data'])}, {counted(summary[key]['n'], 'sample')}"
        for key in ("reported_on", "chosen_on")
    )
    provenance = summary["provenance"] | {"fingerprint": summary["provenance"]["reported_on"]}
    return Part(
        command="search",
        title=f"The front of {counted(len(models), 'model')} on {reported}",
        sentences=labelled(*_sentences(summary, paying, best)),
        chart=front_chart(points, models, unit, at),
        legend=[
            ("pick", "a cascade with a config"), ("point", "other cascades of the front"),
            ("dot", "a model alone"), ("chosen", "shown below"),
        ],
        clicks=clicks,
        tables=[_picks_table(summary)],
        notes=summary.get("notes", ()),
        sources=[*sources({"provenance": provenance}, files), ("chosen on", chosen)],
        files=configs,
    )  # fmt: skip


def _key(stages: Sequence[str], thresholds: Any) -> tuple[str, ...]:
    """What tells a cascade of the front from the others."""
    return (*stages, *(f"{one:.12g}" for one in numbers(thresholds)))


def _spread(costs: Sequence[float], most: int) -> set[int]:
    """At most so many places of increasing costs, evenly in their logarithm, and both ends."""
    if len(costs) <= most:
        return set(range(len(costs)))
    logs = [math.log(max(cost, 1e-300)) for cost in costs]
    step = (logs[-1] - logs[0]) / (most - 2) or 1.0
    first = {int((log - logs[0]) / step): i for i, log in reversed(list(enumerate(logs)))}
    return {*first.values(), len(costs) - 1}


def _options(stages: Sequence[str], limits: Sequence[str]) -> str:
    """How to get a cascade that has no config."""
    if len(stages) == 1:
        return "a single model"
    records = " ".join(f"{name}.safetensors" for name in stages)
    given = " ".join(
        f"--policy.thresholds.{name} {float(limit):.9g}"
        for name, limit in zip(stages, limits, strict=False)
    )
    return f"lit-cascade validate --records {records} {given}"


def _sentences(
    summary: Mapping[str, Any], paying: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None
) -> tuple[Markup, Markup, Markup]:
    unit = summary["unit"]
    if best is None:
        first = say("None: no cascade beats the single models on these samples.")
        return first, say("Nothing."), say("Nothing is promised; other samples may differ.")
    cheapest = max(paying, key=lambda one: float(one["saving"]))
    first = say(
        "None yet; {n} are listed below, of which {} ({good}) is shown.",
        " → ".join(best["stages"]), n=counted(len(paying), "cascade"),
        good=percent(best["accuracy"], 2),
    )  # fmt: skip
    saves = _against(best, unit)
    if cheapest is not best:
        saves += say(" The one that saves most: ") + _against(cheapest, unit)
    for band in summary["bands"][:1]:
        if band["held_out"]:
            low, high = band["held_out"]["interval_95"]
            saves += say(
                " In the {name} of accuracies, cascades save {} over single models of equal "
                "accuracy, on samples that nothing was chosen on (95 % interval {low:.2f} to "
                "{high:.2f}).", f"{band['held_out']['reported']:.2f}x", name=band["name"],
                low=low, high=high,
            )  # fmt: skip
    chosen = (
        "The list was chosen on the samples that it is reported on, which is optimistic."
        if summary["same_samples"]
        else "The list was chosen on other samples than it is reported on."
    )
    sure = say(
        "{chosen} Nothing is promised: <code>lit-cascade select</code> chooses the thresholds of "
        "one of them with a promise.", chosen=chosen,
    )  # fmt: skip
    return first, saves, sure


def _against(pick: Mapping[str, Any], unit: str) -> Markup:
    """A cascade beside the single model that it replaces."""
    return say(
        "{} has {} than {single} at {points:+.2f} points of accuracy.", " → ".join(pick["stages"]),
        fewer(1 / float(pick["saving"]), unit), single=pick["single"],
        points=100 * pick["accuracy_difference"],
    )  # fmt: skip


def _picks_table(summary: Mapping[str, Any]) -> PartTable:
    unit, picks = summary["unit"], summary["cascades"]
    headings = ["stages", "thresholds", cost_heading(unit), "accuracy", "saving", "than", "config"]
    rows = []
    for pick in picks:
        single = len(pick["stages"]) == 1
        points = f"{100 * pick['accuracy_difference']:+.2f} points"
        rows.append([
            " → ".join(pick["stages"]),
            ", ".join(f"{one:.4g}" for one in numbers(pick["thresholds"].values())),
            cost_figure(pick[unit], unit),
            percent(pick["accuracy"], 2),
            "" if single else f"{float(pick['saving']):.2f}x",
            "" if single else f"{pick['single']} ({points})",
            pick["config"] or "",
        ])  # fmt: skip
    if any("per_month" in pick for pick in picks):
        headings.insert(6, f"saved a month, {unit_label(unit)}")
        for row, pick in zip(rows, picks, strict=True):
            saved = total_figure(pick["per_month"]["saved"], unit)
            row.insert(6, saved if len(pick["stages"]) > 1 else "")
    return PartTable("Cascades to choose from", headings, rows)
