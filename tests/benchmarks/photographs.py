"""What cascades of ImageNet models save on photographs, held out.

python -m tests.benchmarks.photographs [--other RECORDS] [--splits 20] [--out FILE.json]

The records of 1,000 photographs are bundled (checkpoints/imagenet_photographs). Half of them is
drawn 20 times to choose on, and the figures are those of the other half: the cheapest threshold at
which a pair keeps the accuracy of EfficientNet-Lite 2, the front of a search of two and three
stages, and the threshold that `select` promises with. RECORDS is a folder of records of the same
models on other images; then thresholds are also chosen on all photographs and reported there, and
the other way round, with 95 % intervals over 1,000 resamples of the images that are reported on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from lit_cascade import Policy, Record, search, select
from lit_cascade.analysis.curve import outcomes_of
from lit_cascade.core import cheapest
from lit_cascade.core.bootstrap import percentile_interval, resampled_counts
from lit_cascade.report.text import Table, show
from lit_cascade.utilities.units import percent
from tests.benchmarks.agreement import reductions
from tests.benchmarks.photograph_records import BUNDLED, MODELS
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.services import halves
from tests.benchmarks.sweep import machine

LARGE = MODELS[-1]
PROMISES = (0.01, 0.02, 0.03)
STRATEGIES = ("cascades of up to 3", "cascades of up to 2", "neighbouring pairs only")
RESAMPLES = 1000

Zoo = dict[str, Record]


def zoo_of(folder: Path) -> Zoo:
    """The seven records of a folder, cheapest first."""
    return {name: Record.load(folder / f"{name}.safetensors") for name in MODELS}


def of_rows(zoo: Zoo, rows: Tensor) -> Zoo:
    return {name: record.rows(rows) for name, record in zoo.items()}


def singles(zoo: Zoo) -> list[dict[str, Any]]:
    """Accuracy of each model, with an exact binomial interval."""
    rows = []
    for name, record in zoo.items():
        right, n = int(record.right.sum()), len(record)
        interval = binomtest(right, n).proportion_ci()
        rows.append({
            "model": name, "macs": float(record.cost()[0]) / 2, "accuracy": right / n,
            "accuracy_95": [interval.low, interval.high],
        })  # fmt: skip
    return rows


def chosen_threshold(small: Record, large: Record) -> float | None:
    """Threshold of the cheapest pair that keeps the large model's accuracy on these samples.

    None if no pair does for less than the large model costs.
    """
    curve = outcomes_of([small, large], Policy(stages=2)).curve()
    point = cheapest(curve, float(large.right.double().mean()))
    return None if point is None or point.cost_ratio >= 1 else point.threshold


def judged(small: Record, large: Record, threshold: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Deferral, gain in right answers and cost of each sample; None is the large model alone."""
    n = len(small)
    if threshold is None:
        return torch.ones(n), torch.zeros(n), large.cost()
    outcomes = outcomes_of([small, large], Policy((threshold,)))
    deferred = outcomes.route((threshold,)).double()
    right = torch.where(deferred.bool(), large.right, small.right)
    return deferred, right.double() - large.right.double(), small.cost() + deferred * large.cost()


def across_halves(zoo: Zoo, name: str, splits: int) -> dict[str, Any]:
    """A pair whose threshold is chosen on one half and reported on the other, over draws."""
    draws = []
    for here, there in halves(len(zoo[name]), splits):
        some, others = of_rows(zoo, here), of_rows(zoo, there)
        threshold = chosen_threshold(some[name], some[LARGE])
        deferred, gained, cost = judged(others[name], others[LARGE], threshold)
        draws.append({
            "threshold": threshold, "deferred": float(deferred.mean()),
            "gain": float(gained.mean()),
            "reduction": float(others[LARGE].cost().mean() / cost.mean()),
        })  # fmt: skip
    return {
        "small": name,
        "does_not_pay": sum(one["threshold"] is None for one in draws),
        **{key: fmean(one[key] for one in draws) for key in ("deferred", "gain", "reduction")},
        **{
            f"{key}_range": [min(values), max(values)]
            for key in ("gain", "reduction")
            for values in [[one[key] for one in draws]]
        },
    }


def across_sets(chosen_on: Zoo, reported_on: Zoo, name: str) -> dict[str, Any]:
    """A pair whose threshold is chosen on one set of images and reported on another."""
    threshold = chosen_threshold(chosen_on[name], chosen_on[LARGE])
    small, large = reported_on[name], reported_on[LARGE]
    deferred, gained, cost = judged(small, large, threshold)
    counts = resampled_counts(len(small), RESAMPLES, torch.Generator().manual_seed(0))
    return {
        "small": name,
        "threshold": threshold,
        "deferred": float(deferred.mean()),
        "gain": float(gained.mean()),
        "gain_95": percentile_interval(counts @ gained.double() / len(small)),
        "reduction": float(large.cost().sum() / cost.sum()),
        "reduction_95": percentile_interval((counts @ large.cost()) / (counts @ cost)),
    }


def promises(zoo: Zoo, name: str, splits: int) -> Iterator[dict[str, Any]]:
    """What `select` promises on a half, with 95 % confidence, and what becomes of it."""
    for limit in PROMISES:
        found = []
        for here, there in halves(len(zoo[name]), splits):
            some, others = of_rows(zoo, here), of_rows(zoo, there)
            chosen = select([some[name], some[LARGE]], max_accuracy_drop=limit).chosen
            if chosen is None or chosen.cost_ratio >= 1:
                continue
            _, gained, cost = judged(others[name], others[LARGE], chosen.threshold)
            found.append((float(gained.mean()), float(others[LARGE].cost().mean() / cost.mean())))
        row = {"small": name, "max_accuracy_drop": limit, "made": len(found), "draws": splits}
        if found:
            row["gain"], row["reduction"] = (fmean(column) for column in zip(*found, strict=True))
        yield row


def searched(zoo: Zoo, splits: int) -> dict[str, Any]:
    """Average compute reductions of two and three stages, held out, and where the front lies."""
    result = search(list(zoo.values()), stages=3, repeats=splits)
    front = result.cascades
    return {
        "reductions": {name: reductions(result, name) for name in STRATEGIES},
        "front": [
            {
                "stages": [result.zoo.names[model] for model in point.stages],
                "thresholds": list(map(str, point.thresholds)),
                "flops": point.cost,
                "accuracy": point.accuracy,
            }
            for point in front.points[:: max(1, len(front) // 20)]
        ],
    }


def pair_table(title: str, rows: Sequence[dict[str, Any]], spread: str) -> Table:
    table = Table(title, "before Lite 2", "deferred", "gain", spread, "less compute", spread)
    for row in rows:
        gain, saving = (
            row.get(f"{key}_95") or row[f"{key}_range"] for key in ("gain", "reduction")
        )
        table.add_row(
            row["small"], percent(row["deferred"]), f"{100 * row['gain']:+.2f}",
            f"{100 * gain[0]:+.1f} to {100 * gain[1]:+.1f}",
            f"{row['reduction']:.2f}x", f"{saving[0]:.2f} to {saving[1]:.2f}",
        )  # fmt: skip
    return table


def main() -> None:
    """Measure, print tables and write the figures."""
    parser = options_parser(__doc__)
    parser.add_argument("--other", type=Path, help="records of the models on other images")
    parser.add_argument("--splits", type=int, default=20)
    options = parser.parse_args()
    zoo = zoo_of(BUNDLED)
    sets = {BUNDLED.name: zoo}
    if options.other:
        sets[options.other.name] = zoo_of(options.other)
    results: dict[str, Any] = {"machine": machine(), "splits": options.splits}
    results["models"] = {name: singles(records) for name, records in sets.items()}
    table = Table("Accuracy", "model", "MACs", *sets)
    for rows in zip(*results["models"].values(), strict=True):
        cells = [f"{percent(row['accuracy'])}" for row in rows]
        table.add_row(rows[0]["model"], f"{rows[0]['macs'] / 1e6:.0f} M", *cells)
    show(table)
    small = MODELS[:-1]
    results["halves"] = [across_halves(zoo, name, options.splits) for name in small]
    show(pair_table("Chosen on one half, reported on the other", results["halves"], "range"))
    results["sets"] = {}
    for other in list(sets)[1:]:
        for here, there in ((BUNDLED.name, other), (other, BUNDLED.name)):
            rows = [across_sets(sets[here], sets[there], name) for name in small]
            results["sets"][f"{here}, {there}"] = rows
            show(pair_table(f"Chosen on {here}, reported on {there}", rows, "95 %"))
    results["promises"] = [
        row for name in MODELS[3:5] for row in promises(zoo, name, options.splits)
    ]
    table = Table(
        "Promised on one half", "before Lite 2", "at most", "made", "gain", "less compute"
    )
    for row in results["promises"]:
        made = f"{row['made']} of {row['draws']}"
        cells = ["", ""]
        if row["made"]:
            cells = [f"{100 * row['gain']:+.2f}", f"{row['reduction']:.2f}x"]
        table.add_row(row["small"], percent(row["max_accuracy_drop"]), made, *cells)
    show(table)
    results["search"] = searched(zoo, options.splits)
    table = Table("Searched", "cascades", "band", "less compute", "95 %", "interpolated")
    for name, bands in results["search"]["reductions"].items():
        for band in bands:
            low, high = band["interval_95"]
            cells = [f"{band['held_out']:.2f}x", f"{low:.2f} to {high:.2f}"]
            table.add_row(name, band["band"], *cells, f"{band['held_out_interpolated']:.2f}x")
    show(table)
    write_results(options.out, results)


if __name__ == "__main__":
    main()
