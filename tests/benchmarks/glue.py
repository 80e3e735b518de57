"""What cascades on GLUE save: thresholds of the calibration split, judged on validation.

python -m tests.benchmarks.glue [--records checkpoints/glue] [--out FILE.json]

For each task and each small stage before the costliest model, the cheapest threshold that is as
good as the largest alone on the calibration split, by the task's official metric; then what it does
on the validation split, with intervals of 90 % over 2,000 draws of its samples with replacement.
The small stage that saves most on the calibration split is marked: only its row was not chosen by
looking at the validation split. `equal` is the saving at equal score where threshold and score are
of the validation split itself: what one might read off the curve, and too good.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lit_cascade import Policy, Record, operating_points
from lit_cascade.analysis.curve import curve as curve_of
from lit_cascade.analysis.curve import outcomes_of
from lit_cascade.core.contract import replay
from lit_cascade.core.metrics import measure
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine

DRAWS = 2000


def folders(root):
    """The records of each task: {task: {split: {model: record}}}."""
    found = {}
    for path in sorted(Path(root).rglob("*.safetensors")):
        task, split = path.parts[-3:-1]
        found.setdefault(task, {}).setdefault(split, {})[path.stem] = Record.load(path)
    return found


def score_of(metric, answers, labels):
    return measure(metric, answers, labels, 2)


def judged(small, large, threshold, metric):
    """What the cascade of two records does at a threshold, and what it would on other draws."""
    policy = Policy((threshold,))
    answers = replay([small.logits, large.logits], policy).prediction
    stage = outcomes_of([small, large], policy).route(policy.thresholds)
    alone = large.logits.argmax(dim=1)
    costs = torch.stack([small.cost(), large.cost()], dim=1)
    spent = costs[:, 0] + costs[:, 1] * stage
    labels = large.labels
    random = torch.Generator().manual_seed(0)
    changes, savings = [], []
    for _ in range(DRAWS):
        rows = torch.randint(len(labels), (len(labels),), generator=random)
        pair = [score_of(metric, said[rows], labels[rows]) for said in (answers, alone)]
        changes.append(pair[0] - pair[1])
        savings.append(float(costs[rows, 1].sum() / spent[rows].sum()))
    ends = torch.tensor([0.05, 0.95], dtype=torch.float64)
    return {
        "score": score_of(metric, answers, labels),
        "change": score_of(metric, answers, labels) - score_of(metric, alone, labels),
        "change_90": torch.tensor(changes, dtype=torch.float64).quantile(ends).tolist(),
        "deferred": float(stage.double().mean()),
        "reduction": float(costs[:, 1].sum() / spent.sum()),
        "reduction_90": torch.tensor(savings, dtype=torch.float64).quantile(ends).tolist(),
    }


def row(calibration, validation, name, largest, metric):
    """One small stage before the largest model."""
    by = None if metric == "accuracy" else metric
    pairs = [[split[name], split[largest]] for split in (calibration, validation)]
    curves = [curve_of(pair, metric=by) for pair in pairs]
    on_calibration, on_validation = (
        operating_points(curve, metric)[f"same_{metric}"] for curve in curves
    )
    small, large = pairs[1]
    found = {
        "small": name,
        "flops": float(small.cost().mean()),
        "score_alone": score_of(metric, small.logits.argmax(dim=1), small.labels),
        "large_alone": score_of(metric, large.logits.argmax(dim=1), large.labels),
        "large_flops": float(large.cost().mean()),
        "equal": None if on_validation is None else 1 / on_validation.cost_ratio,
        "on_calibration": None if on_calibration is None else 1 / on_calibration.cost_ratio,
    }
    if on_calibration is not None:
        found["threshold"] = on_calibration.threshold
        found |= judged(small, large, on_calibration.threshold, metric)
    return found


def table_of(task, metric, n, largest, rows):
    table = Table(title=f"{task}: {metric} x 100 on {n:,} validation samples")
    for column in ("small stage", "FLOPs", "alone", "cascade", "change (90 %)", "deferred",
                   "reduction (90 %)", "on calibration", "equal"):  # fmt: skip
        table.add_column(column, justify="left" if column == "small stage" else "right")
    for one in rows:
        mark = " *" if one["chosen"] else ""
        cells = [
            one["small"] + mark,
            f"{one['flops'] / 1e6:.2f} M",
            f"{100 * one['score_alone']:.1f}",
        ]
        if "threshold" in one:
            low, high = (100 * value for value in one["change_90"])
            less, more = one["reduction_90"]
            cells += [
                f"{100 * one['score']:.1f}",
                f"{100 * one['change']:+.1f} ({low:+.1f} to {high:+.1f})",
                f"{100 * one['deferred']:.0f} %",
                f"{one['reduction']:.2f}x ({less:.2f} to {more:.2f})",
                f"{one['on_calibration']:.2f}x",
            ]
        else:
            cells += ["", "", "", "does not pay", "none"]
        table.add_row(*cells, "none" if one["equal"] is None else f"{one['equal']:.2f}x")
    large = rows[0]
    cost, score = large["large_flops"], large["large_alone"]
    table.add_row(largest, f"{cost / 1e6:.0f} M", f"{100 * score:.1f}")
    return table


def main():
    parser = options_parser(__doc__)
    parser.add_argument("--records", default="checkpoints/glue")
    options = parser.parse_args()
    console, results = Console(width=150), {}
    for task, splits in folders(options.records).items():
        calibration, validation = splits["calibration"], splits["validation"]
        *smalls, largest = sorted(
            validation, key=lambda name: (float(validation[name].cost().mean()), name)
        )
        large = validation[largest]
        metric = large.data.get("metric", "accuracy")
        rows = [row(calibration, validation, name, largest, metric) for name in smalls]
        best = max(rows, key=lambda one: one["on_calibration"] or 0)
        for one in rows:
            one["chosen"] = one is best and one["on_calibration"] is not None
        console.print(table_of(task, metric, len(large), largest, rows))
        results[task] = {
            "metric": metric,
            "large": largest,
            "samples": {"calibration": len(calibration[largest]), "validation": len(large)},
            "rows": rows,
        }
    write_results(options.out, {"machine": machine(), "tasks": results})


if __name__ == "__main__":
    main()
