"""The parts of `compare-scores`, `check`, `test` and `benchmark`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lit_cascade.core.guarantee import Promise, rate_bounds
from lit_cascade.report.page.charts import interval_chart
from lit_cascade.report.page.folder import Results
from lit_cascade.report.page.parts import (
    Part,
    PartTable,
    answering,
    numbers,
    observed,
    promised,
    saving,
    say,
    sources,
)
from lit_cascade.report.text import data_title
from lit_cascade.utilities.units import counted, fewer, percent, unit_label


def scores_part(files: Results) -> Part:
    """The results of `compare-scores`."""
    summary, columns = files.json(), files.columns("scores.csv")
    small, large = (stage["name"] for stage in summary["stages"])
    unit, n = summary["unit"], counted(summary["n"], "sample")
    known = [i for i, area in enumerate(numbers(columns["area"])) if not math.isnan(area)]
    areas = [
        {
            "name": columns["score"][i],
            "value": float(columns["area"][i]),
            "low": float(columns["area_low"][i]),
            "high": float(columns["area_high"][i]),
        }
        for i in known
    ]
    first, best = known[0], max(known, key=lambda i: float(columns["area"][i]))
    name, low, high = columns["score"][best], columns["gain_low"][best], columns["gain_high"][best]
    surely = best == first or float(low) > 0
    shown = best if surely else first
    told = "{} tells best which inputs {} should pass on to {}."
    if not surely:
        told = "No score is surely better than {} at telling which inputs {} should pass on to {}."
    sure = say("No other score gains more on these {n}.", n=n)
    if best != first:
        sure = say(
            "On {n}, {} gains {gain:+.1f} points more of it than {other} (95 % interval {low:+.1f} "
            "to {high:+.1f}){but}.", name, n=n, gain=100 * float(columns["gain"][best]),
            other=columns["score"][first], low=100 * float(low), high=100 * float(high),
            but="" if surely else ", which does not exclude that it is no better",
        )  # fmt: skip
    share = percent(float(columns["area"][shown]))
    fitted = summary["fitted_on"]
    chosen = ["threshold", "accuracy", "saving"] if "chosen_threshold" in columns else []
    title = "Scores" + (f"; thresholds were chosen on {fitted:,} other samples" if chosen else "")
    headings = ["score", "share (95 %)", f"{unit_label(unit)} at equal accuracy", *chosen]
    rows = [_score_row(columns, i, unit, len(headings)) for i in range(len(columns["score"]))]
    return Part(
        command="compare-scores",
        title=f"Scores of {small} for deferring to {large}",
        sentences={
            "Which score": say(told, columns["score"][shown], small, large),
            "How good it is": say("It gains {} of what an oracle would gain over chance.", share),
            "How sure that is": sure,
        },
        chart=interval_chart(areas, "share of what an oracle gains over chance (95 % intervals)"),
        tables=[PartTable(title, headings, rows)],
        notes=summary.get("notes", ()),
        sources=sources(summary, files),
    )


def _score_row(columns: Mapping[str, Sequence[str]], i: int, unit: str, width: int) -> list[str]:
    """A score with its figures; those that it lacks are empty."""
    numbers = {
        name: float(column[i] or "nan") for name, column in columns.items() if name != "score"
    }
    ratio = numbers[f"{unit}_ratio"]
    row = [
        columns["score"][i],
        "{area:.3f} ({area_low:.3f} to {area_high:.3f})".format_map(numbers),
        fewer(ratio, unit) if ratio < 1 else "none",
    ]
    if not math.isnan(numbers.get("chosen_threshold", math.nan)):
        row += [
            f"{numbers['chosen_threshold']:.6g}",
            percent(numbers["chosen_accuracy"], 2),
            fewer(numbers["chosen_ratio"], unit),
        ]
    return row + [""] * (width - len(row))


_VERDICTS = {
    "kept": "is kept",
    "broken": "is broken",
    "open": "is neither confirmed nor refuted",
    "unknown": "cannot be tested itself without labels",
}


def check_part(files: Results) -> Part:
    """The results of `check`."""
    found = files.json("check.json")
    unit = found.get("cost", "flops")
    promise = Promise(found["target"], found["limit"], found["confidence"])
    told = say(
        "The promise that {what} {verdict}, with {sure:.3g} % confidence{value}.",
        verdict=_VERDICTS[found["outcome"]], what=promised(promise, "the last model", unit),
        sure=100 * found["confidence"], value=observed(promise.target, found["value"], unit),
    )  # fmt: skip
    moved = "other data" if found["drifted"] else "no other data"
    todo = "Nothing." if found["passed"] else "Choose again, on new samples."
    rows = [
        (
            one["stage"], f"{one['n']:,}", percent(one["reference_rate"]), percent(one["rate"]),
            *("not tested" if one[p] is None else f"{one[p]:.2g}"
              for p in ("rate_p_value", "scores_p_value")),
        )
        for one in found["stages"]
    ]  # fmt: skip
    headings = ["stage", "reached", "deferred then", "now", "p-value", "p-value of its scores"]
    return Part(
        command="check",
        title=f"{promise.text(unit)}, on {counted(found['n'], 'new sample')}",
        sentences={
            "The promise": told,
            "The data": say("The scores show {} than those it was chosen on.", moved),
            "What to do": say("{}", todo),
        },
        tables=[PartTable("Deferral then and now", headings, rows)],
        notes=found.get("notes", ()),
        sources=sources({}, files),
    )


def run_part(files: Results) -> Part:
    """The results of `test`."""
    found = files.json("test.json")
    names, n, accuracy = list(found["answered"]), found["n"], found["accuracy"]
    limits = [f"{limit:.6g}" for limit in numbers(found["thresholds"].values())]
    low, high = (percent(end, 2) for end in rate_bounds(round(accuracy * n), n, 0.05))
    return Part(
        command="test",
        title=f"{' → '.join(names)}, run on {data_title(found['provenance']['data'])}",
        sentences={
            "What ran": answering(names, found["score"], limits, list(found["answered"].values())),
            "What it saves": saving(found["flops_ratio"], found["flops"], "flops", names[-1]),
            "How good it is": say(
                "The accuracy is {} on {n} (95 % interval {low} to {high}).", percent(accuracy, 2),
                n=counted(n, "sample"), low=low, high=high,
            ),
        },
        notes=found.get("notes", ()),
        sources=sources(found, files),
    )  # fmt: skip


def benchmark_part(files: Results) -> Part:
    """The results of `benchmark`."""
    found = files.json("benchmark.json")
    last = list(found["costs"])[-1]
    kinds = {"without loading": found["model_only"]}
    if "end_to_end" in found:
        kinds["with loading and preprocessing"] = found["end_to_end"]
    headings = ["thresholds", "deferred", "speed-up", "the arithmetic allows", "per input"]
    tables = [
        PartTable(
            f"Times as fast as {last} alone, {kind}",
            headings,
            [
                (
                    ", ".join(f"{limit:.4g}" for limit in numbers(row["thresholds"])),
                    percent(row["deferral_rate"]),
                    f"{row['speedup']:.2f}x",
                    f"{row['ideal_speedup']:.2f}x",
                    f"{1e3 * row['seconds_per_sample']:.3g} ms",
                )
                for row in figures["cascade"]
            ],
        )
        for kind, figures in kinds.items()
    ]
    best = max(found["model_only"]["cascade"], key=lambda row: float(row["speedup"]))
    return Part(
        command="benchmark",
        title=f"Speed of {' → '.join(found['costs'])} on {found['device']}",
        sentences={
            "Speed": say(
                "With {} of inputs deferred the cascade is {} as fast as {} alone, without "
                "loading.", percent(best["deferral_rate"]), f"{best['speedup']:.2f} times", last,
            ),
            "At best": say("Its arithmetic allows {}.", f"{best['ideal_speedup']:.2f} times"),
            "How sure that is": say(
                "Each figure is a median of {n}, measured side by side on {where}.",
                n=counted(found["repeats"], "repeat"), where=found["device"],
            ),
        },
        tables=tables,
        notes=found.get("notes", ()),
        sources=[*sources({"provenance": found["provenance"] | {"data": found["data"]},
                           "n": found["n"]}, files), ("machine", found["device"])],
    )  # fmt: skip
