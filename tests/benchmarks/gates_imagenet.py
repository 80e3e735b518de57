"""What the confidence of ResNet-50 gains from classes and from other answers, on ImageNet.

python -m tests.benchmarks.gates_imagenet [--predictions FILE.parquet] [--splits 20]
    [--out FILE.json]

ResNet-50 comes before PNASNet-5-large, alone or after NASNet-A mobile. For each draw of a half, a
learned score is fitted and the thresholds are chosen there, for the least compute at the accuracy
of PNASNet-5-large, or at half a point less; the figures are those of the other half. FILE has the
confidences of ResNet-50 as published by ImageNet-X (github.com/facebookresearch/imagenetx); the
answers are those of the bundled records.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lit_cascade import Record
from lit_cascade.report.text import Table, show
from lit_cascade.utilities.units import percent
from tests.benchmarks.agreement import PREDICTIONS, RECORDS, with_confidence
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.services import (
    Make,
    accuracy,
    chosen_on,
    crossed_on,
    halves,
    learned,
    measured,
    plain,
)
from tests.benchmarks.services import price as mean_cost
from tests.benchmarks.sweep import machine

PAIR = ("resnet50", "pnasnet5large")
TRIPLE = ("nasnetamobile", *PAIR)
LOSSES = (0.0, 0.005)
GATES: dict[str, tuple[Make, tuple[str, ...]]] = {
    "confidence": (plain("recorded"), PAIR),
    "learned": (learned, PAIR),
    "agreement": (plain("agreement"), TRIPLE),
    "learned, with an earlier answer": (learned, TRIPLE),
}


def models(predictions: Path) -> dict[str, Record]:
    """The three models, ResNet-50 with its confidence."""
    folder = RECORDS / "imagenet" / "validation"
    records = [Record.load(folder / f"{name}.safetensors") for name in TRIPLE]
    return dict(zip(TRIPLE, with_confidence(records, predictions), strict=True))


def rows(zoo: dict[str, Record], splits: int) -> Iterator[dict[str, Any]]:
    """Compute saved and accuracy lost by each gate."""
    large = zoo[PAIR[-1]]
    for loss, (name, (make, chain)) in product(LOSSES, GATES.items()):
        some = {model: zoo[model] for model in chain}
        ratios, lost = [], []
        for here, there in halves(len(large), splits):
            crossed = crossed_on(some, here) if make is learned else None
            choice = chosen_on(some, here, make, (len(chain),), loss=loss, crossed=crossed)
            reached, cost = measured(some, choice, there)
            ratios.append(mean_cost(large) / cost)
            lost.append(accuracy(large, there) - reached)
        yield {
            "loss": loss,
            "gate": name,
            "stages": chain,
            "reduction": fmean(ratios),
            "reduction_sd": stdev(ratios) if splits > 1 else None,
            "accuracy_lost": fmean(lost),
            "accuracy_lost_sd": stdev(lost) if splits > 1 else None,
        }


def main() -> None:
    """Measure, print a table and write the figures."""
    parser = options_parser(__doc__)
    parser.add_argument("--predictions", type=Path, default=PREDICTIONS)
    parser.add_argument("--splits", type=int, default=20)
    options = parser.parse_args()
    found = []
    title = "Before PNASNet-5-large, on the other half"
    table = Table(title, "allowed to lose", "gate", "less compute", "lost")
    for row in rows(models(options.predictions), options.splits):
        found.append(row)
        cells = percent(row["loss"]), row["gate"], f"{row['reduction']:.2f}x"
        table.add_row(*cells, percent(row["accuracy_lost"], 2))
        write_results(options.out, {"machine": machine(), "splits": options.splits, "rows": found})
    show(table)


if __name__ == "__main__":
    main()
