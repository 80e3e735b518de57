"""Is a promise kept where the score reads answers, or was learned? Measured on known truths.

python -m tests.benchmarks.gates_guarantee [--draws 1000] [--data ../shared/data/api_predictions]
    [--out FILE.json]

All samples of a data set are the population: calibration sets are drawn from them with
replacement, thresholds are selected on each with 95 % confidence, and the true accuracy drop is
read off all samples. A learned score is fitted on one half of the set and the thresholds are
selected on the other; beside it, both on all of the set, which `select` refuses. A promise is
broken where the drop is above its limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import binom
from torch import Tensor

from lit_cascade import Policy, Record
from lit_cascade.analysis import fit_heads
from lit_cascade.analysis.curve import outcomes_of
from lit_cascade.analysis.selection import select_thresholds
from lit_cascade.core import AGREEMENT, LEARNED, StageOutcomes
from lit_cascade.core.guarantee import Promise
from lit_cascade.errors import CascadeError
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.services import DATA, services
from tests.benchmarks.sweep import machine

IMAGENET = Path(__file__).parents[2] / "checkpoints" / "imagenet" / "validation"
VOTERS = ("se_resnet50", "inceptionv3", "pnasnet5large")
SERVICES = {"ferplus": ("open_cnn", "microsoft"), "waimai": ("amazon", "baidu")}
N, LIMIT, CONFIDENCE = 1000, 0.02, 0.95
OTHERS_DRAWS = 200

SAME = "learned and selected on the same"

Choice = tuple[float, float] | None
"""True accuracy drop and cost ratio of a policy; None if nothing was promised."""


def promised(whole: StageOutcomes, rows: Tensor, limit: float) -> Choice:
    """Select on some rows, and measure on all."""
    promise = Promise("accuracy_drop", limit, CONFIDENCE)
    chosen = select_thresholds(whole.rows(rows), promise).chosen
    if chosen is None:
        return None
    point = whole.at(chosen.thresholds)
    last = float(whole.labelled("the truth")[1][:, -1].double().mean())
    return last - point.accuracy, point.cost_ratio


def learned(records: Sequence[Record], fit: Tensor, rows: Tensor, limit: float) -> Choice:
    """Fit a learned score on some rows, and select on others."""
    try:
        heads = fit_heads(records, Policy(stages=len(records)), fit)
    except CascadeError:  # too few samples that the last stage puts right
        return None
    own = tuple(one.head for one in heads.values())
    policy = Policy(score=LEARNED.name, heads=own, stages=len(records))
    return promised(outcomes_of(records, policy, next(iter(records[0].costs))), rows, limit)


def ways(data: Path, names: Sequence[str]) -> Iterator[tuple[str, str, int, Callable[..., Choice]]]:
    """Population, choice, number of samples, and how to choose."""
    if "imagenet" in names:
        records = [Record.load(IMAGENET / f"{name}.safetensors") for name in VOTERS]
        policy = Policy(score=AGREEMENT.name, stages=3)
        whole = outcomes_of(records, policy)
        title = f"ImageNet: {', '.join(VOTERS)}"
        yield title, "agreement", len(whole), lambda rows, limit: promised(whole, rows, limit)
    for name, chain in SERVICES.items():
        if name not in names:
            continue
        zoo = services(data, name)
        records = [zoo[one] for one in chain]
        title, size = f"{name}: {', '.join(chain)}", len(records[0])
        yield (
            title, "learned on a half, selected on the other", size,
            lambda rows, limit, records=records: learned(records, *rows.chunk(2), limit),
        )  # fmt: skip
        yield (
            title, SAME, size,
            lambda rows, limit, records=records: learned(records, rows, rows, limit),
        )  # fmt: skip


def measured(data: Path, names: Sequence[str], draws: int) -> Iterator[dict[str, object]]:
    """How often promises are broken."""
    for title, choice, size, choose in ways(data, names):
        count = min(draws, OTHERS_DRAWS) if choice == SAME else draws
        found = []
        for seed in range(count):
            generator = torch.Generator().manual_seed(seed)
            found.append(choose(torch.randint(size, (N,), generator=generator), LIMIT))
        kept = [one for one in found if one is not None]
        yield {
            "population": title,
            "choice": choice,
            "n": N,
            "limit": LIMIT,
            "draws": count,
            "promised": len(kept) / count,
            "broken": sum(drop > LIMIT + 1e-9 for drop, _ in kept) / count,
            "at_most": float(binom.ppf(0.975, count, 1 - CONFIDENCE)) / count,
            "cost_ratio": (sum(min(ratio, 1.0) for _, ratio in kept) + count - len(kept)) / count,
        }


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--data", type=Path, default=DATA)
    names = ["imagenet", *SERVICES]
    parser.add_argument("--names", nargs="+", default=names, choices=names)
    options = parser.parse_args()
    table = Table("population", "choice", "n", "limit", "draws", "promised", "broken", "cost")
    rows = []
    for row in measured(options.data, options.names, options.draws):
        rows.append(row)
        table.add_row(
            row["population"], row["choice"], f"{row['n']:,}", f"{row['limit']:g}",
            f"{row['draws']:,}", f"{row['promised']:.1%}", f"{row['broken']:.1%}",
            f"{row['cost_ratio']:.3f}",
        )  # fmt: skip
        write_results(options.out, {"machine": machine(), "confidence": CONFIDENCE, "rows": rows})
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
