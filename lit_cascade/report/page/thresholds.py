"""The parts of `validate` and `select`: a curve with a slider for the threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lit_cascade.core.guarantee import Promise
from lit_cascade.report.page.charts import sweep_chart
from lit_cascade.report.page.disagreements import disagreements_table
from lit_cascade.report.page.folder import Results
from lit_cascade.report.page.parts import (
    Part,
    PartTable,
    answering,
    labelled,
    month,
    numbers,
    observed,
    promised,
    saving,
    say,
    sources,
)
from lit_cascade.report.page.sweep import Sweep
from lit_cascade.report.text import data_title
from lit_cascade.utilities.units import (
    counted,
    metric_figure,
    metric_label,
    percent,
    unit_label,
)

_LINE, _DOT = ("line", "the cascade at every threshold"), ("dot", "a model alone")
_MARKS = [("diamond", "proposed"), ("ring", "the slider")]


def _slider(
    sweep: Sweep, at: int, bins: int, sure: str = ""
) -> tuple[list[int], int, dict[str, Any]]:
    """The rows of a slider, the place of one of them, and the texts beside the slider."""
    rows = sweep.thinned(bins, {at})
    place, tiles = rows.index(at), sweep.tiles(rows, sure)
    kept = (
        [] if sweep.promised is None else [i for i, row in enumerate(rows) if sweep.promised[row]]
    )
    return rows, place, {
        "at": place,
        "rows": len(rows),
        "of": len(sweep),
        "tiles": tiles,
        "start": {heading: texts[place] for heading, texts in tiles.items()},
        "ends": [f"{sweep.names[0]} answers all", f"{sweep.names[-1]} answers all"]
        if sweep.one
        else ["cheapest", "dearest"],
        # single thresholds are certified from the greatest one on
        "promised": [kept[0], kept[-1]] if kept and sweep.one else None,
    }  # fmt: skip


def validation_part(
    files: Results, bins: int, chosen: Sequence[float], disagreements: int = 0
) -> Part:
    """The results of `validate`.

    Args:
        files: the results.
        bins: as for `Sweep.thinned`.
        chosen: thresholds that `select` chose for the same cascade, if the page has its results.
        disagreements: number of samples to list on which the first and the last model disagree.
    """
    summary = files.json()
    unit, metric, n = summary["unit"], summary.get("metric"), summary["n"]
    by = metric or "accuracy"
    names = [stage["name"] for stage in summary["stages"]]
    calls = (summary.get("per_month") or {}).get("calls")
    sweep = Sweep.of(files.columns("curve.csv"), unit, names, calls, metric)
    points = summary["operating_points_by_metric" if metric else "operating_points"]
    given, same = summary["policy"], points[f"same_{by}"]
    best = same or points[f"best_{by}"]
    few = f"{counted(n, 'sample')} (one of them is {100 / n:.2g} points)"
    shown = None
    label = "Proposed"
    if len(set(chosen)) == 1:
        at, label = sweep.row_at(chosen[0]), "Chosen above"
        sure = say("The threshold was chosen above; this is how it does on {few}.", few=few)
    elif given is not None:
        shown, limits = given, numbers(given["thresholds"].values())
        # different thresholds are no row of the curve
        at = sweep.row_at(limits[0]) if len(set(limits)) == 1 else sweep.row_of(given[unit])
        sure = say(
            "Nothing is promised here. The threshold was given; these results do not say whether "
            "it was chosen on these {few} or on others.", few=few,
        )  # fmt: skip
    else:
        at = sweep.row_at(float(best["threshold"]))
        label = "Best threshold for all stages" if chosen else label
        sure = say(
            "Nothing is promised. The threshold was chosen on the same {few} that it is judged on, "
            "so on others it is likely to do a little worse. <code>lit-cascade select</code> "
            "chooses one with a promise.", few=few,
        )  # fmt: skip
    rows, place, slider = _slider(sweep, at, bins)
    figures = {name: float(values[at]) for name, values in sweep.figures.items()}
    ratio, cost, reached = figures["ratio"], figures["cost"], figures[by]
    thresholds, answered = [sweep.shown(at)] * (len(names) - 1), _answered(figures)
    if shown is not None:
        thresholds = [f"{limit:.6g}" for limit in numbers(shown["thresholds"].values())]
        answered = list(shown["answered"].values())
        ratio, cost, reached = shown[f"{unit}_ratio"], shown[unit], shown[by]
    what = answering(names, summary["score"], thresholds, answered)
    if at == 0:
        what = say("{} alone: it answers everything.", names[0])
    if same is None and shown is None and len(set(chosen)) != 1:
        none = "None: no threshold keeps the {good} of {} for less. The best of all: "
        what = say(none, names[-1], good=metric_label(by)) + what
    stages = [(stage["name"], stage[unit], stage[by]) for stage in summary["stages"]]
    both = (metric_figure(by, one) for one in (reached, stages[-1][2]))
    saves = saving(ratio, cost, unit, names[-1])
    saves += say(" The {good} is {} against {}.", *both, good=metric_label(by))
    return Part(
        command="validate",
        title=f"{' → '.join(names)} on {data_title(summary['provenance']['data'])}",
        sentences=labelled(what, saves + month(summary), sure, first=label),
        chart=sweep_chart(sweep, rows, stages, place),
        legend=[_LINE, _DOT, *_MARKS],
        slider=slider,
        tables=[disagreements_table(files, summary, disagreements)] if disagreements else [],
        notes=summary.get("notes", ()),
        sources=sources(summary, files),
    )


def _answered(figures: Mapping[str, float]) -> list[float]:
    return [1 - figures["deferral_rate"], figures["reach_last"]]


def selection_part(files: Results, bins: int, checks: Sequence[Mapping[str, Any]]) -> Part:
    """The results of `select`.

    Args:
        files: the results.
        bins: as for `Sweep.thinned`.
        checks: contents of `check.json` that test this policy.
    """
    summary = files.json()
    unit, chosen, held_out = summary["unit"], summary["chosen"], summary["held_out"]
    promise = Promise(summary["target"], summary["limit"], summary["confidence"])
    names, last = [stage["name"] for stage in summary["stages"]], summary["stages"][-1]
    calls = (summary.get("per_month") or {}).get("calls")
    sweep = Sweep.of(files.columns("candidates.csv"), unit, names, calls)
    limits = numbers(chosen["thresholds"].values())
    at = sweep.row_at(limits[0]) if sweep.one else sweep.row_of(chosen[unit])
    sure = "" if promise.confidence is None else f"{100 * promise.confidence:.3g} % confidence"
    rows, place, slider = _slider(sweep, at, bins, sure)
    saves = saving(chosen[f"{unit}_ratio"], chosen[unit], unit, last["name"])
    stages = []
    if chosen["accuracy"] is not None:  # the samples have labels
        stages = [(stage["name"], stage[unit], stage["accuracy"]) for stage in summary["stages"]]
        both = (percent(one["accuracy"], 2) for one in (chosen, last))
        saves += say(" The accuracy is {} against {}.", *both)
    n = counted(summary["n"], "sample")
    if sure:
        how = say(
            "With {}, on new inputs of the same kind {what}. It was chosen on {n}.",
            sure, what=promised(promise, last["name"], unit), n=n,
        )  # fmt: skip
    else:
        how = say(
            "Nothing is promised: on the {n} it was chosen on {what}; on others that fails about "
            "as often as not.", n=n, what=promised(promise, last["name"], unit),
        )  # fmt: skip
    others = [*([] if held_out is None else [held_out]), *checks]
    how += _measured(others, promise, unit)
    how += Markup("").join(say(" {caveat}", caveat=caveat) for caveat in summary["caveats"])
    typed, answered = [f"{limit:.6g}" for limit in limits], list(chosen["answered"].values())
    policy = answering(names, summary["score"], typed, answered)
    band = [("band", f"promise kept, with {sure}")] if sure else []
    return Part(
        command="select",
        title=f"{' → '.join(names)}: {promise.text(unit)}",
        sentences=labelled(
            policy,
            saves + month(summary, "" if held_out is None else " on the samples held out"),
            how,
        ),
        chart=sweep_chart(sweep, rows, stages, place),
        legend=[_LINE, *band, *([_DOT] if stages else []), *_MARKS],
        slider=slider,
        tables=[] if held_out is None else [_held_out_table(held_out, unit)],
        notes=summary.get("notes", ()),
        sources=sources(summary, files),
        files={"policy.yaml": files.config("policy.yaml")},
    )


_VERDICTS = {
    "kept": "the promise is kept there",
    "broken": "the promise is broken there",
    "open": "they neither confirm nor refute the promise",
    "unknown": "without labels they cannot test the promise itself",
}


def _measured(others: Sequence[Mapping[str, Any]], promise: Promise, unit: str) -> Markup:
    """How the policy did on other samples."""
    if not others:
        return say(" It was not measured on others yet: <code>lit-cascade check</code> does that.")
    text = Markup("")
    for one in others:
        text += say(
            " Measured on {}: {verdict}{value}{moved}.", f"{one['n']:,} other samples",
            verdict=_VERDICTS[one["outcome"]], value=observed(promise.target, one["value"], unit),
            moved="; but their scores show other data" if one["drifted"] else "",
        )  # fmt: skip
    return text


def _held_out_table(held: Mapping[str, Any], unit: str) -> PartTable:
    values = {
        "accuracy": ("accuracy", held["accuracy"]),
        "drop": ("accuracy drop", held["accuracy_drop"]),
        "reach_last": ("reach the last model", held.get("reach_last", held["deferral_rate"])),
        "cost_ratio": (f"{unit_label(unit)} of the last model's", held[f"{unit}_ratio"]),
    }
    rows = [
        (label, percent(value, 2), " to ".join(percent(end, 2) for end in ends))
        for name, (label, value) in values.items()
        if (ends := held["intervals_95"].get(name)) is not None
    ]
    title = f"On {counted(held['n'], 'sample')} held out"
    return PartTable(title, ["", "value", "95 % interval"], rows)
