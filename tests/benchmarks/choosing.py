"""What a promise is worth if its samples were also used to fit or to choose something else.

python -m tests.benchmarks.choosing [--draws 200] [--out FILE.json]

The CIFAR-10 test records are the population: calibration sets are drawn from them with
replacement, a policy is selected on each with 95 % confidence, and its true accuracy drop is read
off all samples. A promise is broken where the drop is above its limit. The last table
says how many samples are recognised by their logits when these have noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lit_cascade import Policy, Record
from lit_cascade.analysis.content import Contents
from lit_cascade.analysis.curve import outcomes_of
from lit_cascade.analysis.deferral_head import fit_head
from lit_cascade.analysis.selection import select_thresholds
from lit_cascade.core import SCORES, StageOutcomes
from lit_cascade.core.guarantee import Promise
from lit_cascade.errors import CascadeError
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine

FOLDER = Path(__file__).parents[2] / "checkpoints" / "cifar10" / "test"
SMALL, LARGE = "resnet8-w32-s2", "resnet14-w64"
LIMITS = {300: 0.03, 1000: 0.01}
NOISES = (1e-5, 1e-4, 1e-3, 1e-2)

Choice = tuple[float, float] | None
"""True accuracy drop and cost ratio of a policy; None if nothing was promised."""


class Zoo:
    """The population, and the ways to choose a policy from a draw of it."""

    def __init__(self) -> None:
        self.records = {
            path.stem: Record.load(path) for path in sorted(FOLDER.glob("*.safetensors"))
        }
        self.pairs = {name: self._pair(name) for name in self.records if name != LARGE}
        self.scores = {score: self._pair(SMALL, score) for score in SCORES}

    def _pair(self, small: str, score: str = "max_softmax") -> StageOutcomes:
        records = [self.records[small], self.records[LARGE]]
        return outcomes_of(records, Policy(stages=2, score=score))

    def select(self, whole: StageOutcomes, rows: Tensor, limit: float) -> Choice:
        """Select on some rows, and measure on all."""
        chosen = select_thresholds(whole.rows(rows), Promise("accuracy_drop", limit)).chosen
        if chosen is None:
            return None
        point = whole.at(chosen.thresholds)
        last = float(whole.labelled("the truth")[1][:, -1].double().mean())
        return last - point.accuracy, chosen.cost_ratio

    def cheapest(self, wholes: dict[str, StageOutcomes], rows: Tensor, limit: float) -> Choice:
        """The cheapest of several promises on the same rows."""
        found = [self.select(whole, rows, limit) for whole in wholes.values()]
        return min((one for one in found if one), key=lambda one: one[1], default=None)

    def learned(self, fit: Tensor, rows: Tensor, limit: float) -> Choice:
        """Fit a learned score on some rows, and select on others."""
        whole, logits = self.pairs[SMALL], self.records[SMALL].logits
        correct, _ = whole.labelled("a learned score")
        try:
            head = fit_head(logits[fit], correct[fit, 0], correct[fit, 1]).head
        except CascadeError:  # too few samples that the last stage puts right
            return None
        return self.select(replace(whole, scores=head.judge(logits).score[:, None]), rows, limit)


def choices(zoo: Zoo) -> dict[str, Callable[[Tensor, float], Choice]]:
    """Ways to choose on a draw."""
    return {
        "one score, one pair": lambda rows, limit: zoo.select(zoo.pairs[SMALL], rows, limit),
        f"the cheapest of {len(zoo.scores)} scores": lambda rows, limit: zoo.cheapest(
            zoo.scores, rows, limit
        ),
        f"the cheapest of {len(zoo.pairs)} pairs": lambda rows, limit: zoo.cheapest(
            zoo.pairs, rows, limit
        ),
        "learned and selected on the same": lambda rows, limit: zoo.learned(rows, rows, limit),
        "learned on a half, selected on the other": lambda rows, limit: zoo.learned(
            *rows.chunk(2), limit
        ),
    }


def measured(draws: int) -> Iterator[dict[str, object]]:
    """How often promises are broken, by size and choice."""
    zoo = Zoo()
    population = len(zoo.records[SMALL])
    for n, limit in LIMITS.items():
        for name, choose in choices(zoo).items():
            found = []
            for seed in range(draws):
                generator = torch.Generator().manual_seed(seed)
                found.append(choose(torch.randint(population, (n,), generator=generator), limit))
            promised = [one for one in found if one is not None]
            broken = sum(drop > limit + 1e-9 for drop, _ in promised)
            yield {
                "n": n, "limit": limit, "choice": name, "draws": draws,
                "promised": len(promised), "broken": broken / draws,
            }  # fmt: skip


def recognised() -> Iterator[dict[str, float]]:
    """Share of the samples that are recognised when logits have noise."""
    generator = torch.Generator().manual_seed(0)
    records = [Record.load(FOLDER / f"{name}.safetensors") for name in (SMALL, LARGE)]
    content = Contents.of(records)
    for noise in NOISES:
        again = []
        for one in records:
            shaken = one.logits.float() + noise * torch.randn(one.logits.shape, generator=generator)
            again.append(replace(one, logits=shaken))
        found = content.find(again)
        share = 0.0 if found is None else float(found[0].double().mean())
        yield {"noise": noise, "bits": content.bits, "recognised": share}


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    console = Console(width=120)
    rows, shares = list(measured(options.draws)), list(recognised())
    table = Table("n", "limit", "choice", "draws", "promised", "broken")
    for row in rows:
        table.add_row(
            f"{row['n']:,}", f"{row['limit']:g}", row["choice"], str(row["draws"]),
            str(row["promised"]), f"{row['broken']:.1%}",
        )  # fmt: skip
    console.print(table)
    table = Table("noise", "bits", "recognised")
    for row in shares:
        table.add_row(f"{row['noise']:g}", str(row["bits"]), f"{row['recognised']:.1%}")
    console.print(table)
    write_results(options.out, {"machine": machine(), "rows": rows, "recognised": shares})


if __name__ == "__main__":
    main()
