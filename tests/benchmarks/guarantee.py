"""Is a promise kept as often as it says, and what does it cost? Measured on known truths.

python -m tests.benchmarks.guarantee [--draws 1000] [--out FILE.json] [--picture FILE.png]

A record is taken as the population: calibration sets are drawn from it with replacement, a
threshold is chosen on each, and its true accuracy drop is read off the whole record. A made-up
population, whose truth is a formula, stands beside. Failing is promising what is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.special import bdtr

from lit_cascade import Record
from lit_cascade.analysis.curve import outcomes_of
from lit_cascade.analysis.selection import select_thresholds
from lit_cascade.core.guarantee.bounds import binomial_p_value, paired_p_value
from lit_cascade.core.guarantee.candidates import candidates_of, shared_candidates
from lit_cascade.core.guarantee.certify import _leading
from lit_cascade.core.guarantee.promise import Promise
from lit_cascade.core.outcomes import StageOutcomes
from lit_cascade.core.policy import Policy
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine

ROOT = Path(__file__).parents[2]
LIMITS = {200: 0.03, 1000: 0.01, 5000: 0.005}
"""By number of samples: about the least drop that so many can show."""
CONFIDENCES = (0.9, 0.95)
OTHERS_DRAWS = 200


@dataclass
class Population:
    """Where calibration sets come from."""

    name: str
    draw: Callable[[int, torch.Generator], StageOutcomes]
    truth: Callable[[float], tuple[float, float]]
    """Threshold to true accuracy drop and cost ratio."""


def recorded(folder: str, split: str, small: str, large: str) -> Population:
    """A pair of committed records."""
    files = [
        ROOT / "checkpoints" / folder / split / f"{name}.safetensors" for name in (small, large)
    ]
    whole = outcomes_of([Record.load(file) for file in files], Policy(stages=2))

    def draw(n: int, generator: torch.Generator) -> StageOutcomes:
        return whole.rows(torch.randint(0, len(whole), (n,), generator=generator))

    candidates = shared_candidates(whole, Promise("accuracy_drop", 0.0, None))
    scores, value, ratio = (
        candidates.thresholds[:, 0],
        candidates.value,
        candidates.cost / whole.last_cost,
    )

    def truth(threshold: float) -> tuple[float, float]:
        # the candidates falls in threshold: the last row at or above it defers what it defers
        row = int((scores >= threshold).sum()) - 1
        return float(value[max(row, 0)]), float(ratio[max(row, 0)])

    return Population(f"{folder}: {small}, {large}", draw, truth)


def made_up() -> Population:
    """Scores u from 0 to 1: lost with 0.25 (1 - u)^2, won with 0.05 (1 - u)."""

    def draw(n: int, generator: torch.Generator) -> StageOutcomes:
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        chance = torch.rand(n, generator=generator, dtype=torch.float64)
        lost = chance < 0.25 * (1 - u) ** 2
        won = ~lost & (chance < 0.25 * (1 - u) ** 2 + 0.05 * (1 - u))
        right = torch.stack([~lost, ~won], dim=1)
        costs = torch.tensor([[1.0, 10.0]]).expand(n, 2)
        return StageOutcomes(u[:, None], right, costs)

    def truth(threshold: float) -> tuple[float, float]:
        t = min(max(threshold, 0.0), 1.0)
        return 0.25 * (1 - t) ** 3 / 3 - 0.05 * (1 - t) ** 2 / 2, 0.1 + t

    return Population("made up", draw, truth)


def hoeffding_bentkus(lost: int, won: int, n: int, limit: float) -> float:
    """The bound of learn-then-test, for losses scaled to 0..1."""
    mean, alpha = (1 + (lost - won) / n) / 2, (1 + limit) / 2
    low = min(mean, alpha)
    divergence = low * math.log(low / alpha) + (1 - low) * math.log((1 - low) / (1 - alpha))
    return min(1.0, math.exp(-n * divergence), math.e * float(bdtr(math.ceil(n * mean), n, alpha)))


def betting(lost: int, won: int, n: int, limit: float) -> float:
    """A fixed mixture of bets against the mean."""
    bets = np.geomspace(1e-4, 1 - 1e-9, 64) / (1 - limit)
    capital = lost * np.log1p(bets * (limit - 1)) + won * np.log1p(bets * (limit + 1))
    capital = capital + (n - lost - won) * np.log1p(bets * limit)
    return min(1.0, math.exp(-(np.logaddexp.reduce(capital) - math.log(len(bets)))))


def lost_alone(lost: int, won: int, n: int, limit: float) -> float:
    """The exact binomial tail of what is lost, as if nothing were ever won."""
    del won
    return binomial_p_value(lost, n, limit)


BOUNDS = {
    "exact paired": paired_p_value,
    "betting": betting,
    "binomial of the lost": lost_alone,
    "Hoeffding-Bentkus": hoeffding_bentkus,
}


def fixed_sequence(outcomes: StageOutcomes, limit: float, delta: float, bound) -> float | None:
    """The threshold of the fixed sequence with another bound."""
    candidates = shared_candidates(outcomes, Promise("accuracy_drop", limit))
    n = len(outcomes)

    def passes(start: int, end: int) -> bool:
        lost, won = int(candidates.lost[start:end].max()), int(candidates.won[start:end].min())
        return bound(lost, won, n, limit) <= delta

    return _cheapest(candidates, _leading(len(candidates), passes))


def holm(outcomes: StageOutcomes, limit: float, delta: float, levels: int = 50) -> float | None:
    """Bonferroni-Holm over some thresholds that are set before."""
    promise = Promise("accuracy_drop", limit)
    grid = torch.linspace(1, 0, levels, dtype=torch.float64)[:, None]
    candidates = candidates_of(outcomes, promise, grid)
    p = [
        paired_p_value(int(a), int(b), len(outcomes), limit)
        for a, b in zip(candidates.lost, candidates.won, strict=True)
    ]
    order, passed = sorted(range(levels), key=p.__getitem__), []
    for place, row in enumerate(order):
        if p[row] > delta / (levels - place):
            break
        passed.append(row)
    useful = [row for row in passed if float(candidates.cost[row]) < outcomes.last_cost]
    if not useful:
        return None
    return float(candidates.thresholds[min(useful, key=lambda row: float(candidates.cost[row])), 0])


def _cheapest(candidates, count: int) -> float | None:
    if count == 0 or float(candidates.cost[count - 1]) >= candidates.outcomes.last_cost:
        return None
    return float(candidates.thresholds[count - 1, 0])


def judge(population: Population, thresholds: list[float | None], limit: float) -> dict[str, float]:
    """How often a choice fails, how often there is none, and what it costs."""
    truths = [(1.0, 0.0) if t is None else population.truth(t)[::-1] for t in thresholds]
    ratios, drops = zip(*truths, strict=True)
    return {
        "broken": sum(drop > limit + 1e-9 for drop in drops) / len(drops),
        "none": sum(t is None for t in thresholds) / len(thresholds),
        "cost_ratio": sum(min(ratio, 1.0) for ratio in ratios) / len(ratios),
    }


def row_of(population: Population, n: int, draws: int) -> list[dict[str, object]]:
    """All choices on the same draws of one size."""
    limit, rows = LIMITS[n], []
    found: dict[tuple[str, float | None], list[float | None]] = {}
    for number in range(draws):
        outcomes = population.draw(n, torch.Generator().manual_seed(number))
        for confidence in CONFIDENCES:
            chosen = select_thresholds(outcomes, Promise("accuracy_drop", limit, confidence))
            found.setdefault(("select", confidence), []).append(
                chosen.chosen and chosen.chosen.thresholds[0]
            )
        plain = chosen.empirical
        found.setdefault(("plain empirical", None), []).append(plain and plain.thresholds[0])
        if number >= OTHERS_DRAWS:
            continue
        for name, bound in BOUNDS.items():
            found.setdefault((name, 0.95), []).append(fixed_sequence(outcomes, limit, 0.05, bound))
        found.setdefault(("Holm, exact paired", 0.95), []).append(holm(outcomes, limit, 0.05))
    for (name, confidence), thresholds in found.items():
        judged = judge(population, thresholds, limit)
        few = judge(population, found["plain empirical", None][: len(thresholds)], limit)
        saving = 1 - few["cost_ratio"]
        rows.append(
            {
                "population": population.name,
                "n": n,
                "limit": limit,
                "choice": name,
                "confidence": confidence,
                "draws": len(thresholds),
                **judged,
                "price": (judged["cost_ratio"] - few["cost_ratio"]) / saving,
            }
        )
    return rows


def show(rows: list[dict]) -> None:
    """Print the table."""
    table = Table("population", "n", "limit", "choice", "confidence", "draws", "broken", "none",
                  "cost", "price")  # fmt: skip
    for row in rows:
        table.add_row(
            row["population"], f"{row['n']:,}", f"{row['limit']:g}", row["choice"],
            "" if row["confidence"] is None else f"{row['confidence']:g}", f"{row['draws']:,}",
            f"{row['broken']:.1%}", f"{row['none']:.1%}", f"{row['cost_ratio']:.3f}",
            f"{row['price']:.1%}",
        )  # fmt: skip
    Console(width=160).print(table)


def draw(rows: list[dict]) -> bytes:
    """How often promises are broken, as a PNG."""
    import io

    figure = Figure(figsize=(7.2, 3.6), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    looks = {
        ("plain empirical", None): ("#d55e00", "plain empirical choice"),
        ("select", 0.9): ("#56b4e9", "promised with 90 %"),
        ("select", 0.95): ("#0072b2", "promised with 95 %"),
    }
    groups = list(dict.fromkeys((row["population"], row["n"]) for row in rows))
    for place, (key, (colour, label)) in enumerate(looks.items()):
        broken = [
            100 * row["broken"]
            for group in groups
            for row in rows
            if (row["population"], row["n"]) == group and (row["choice"], row["confidence"]) == key
        ]
        where = np.arange(len(groups)) + 0.27 * (place - 1)
        axes.bar(where, broken, 0.25, color=colour, label=label, zorder=3)
    for height in (5, 10):
        axes.axhline(height, color="#222222", linestyle=":", linewidth=1, zorder=4)
    names = [f"{name.split(':')[0].split('/')[-1]}\nn = {n:,}" for name, n in groups]
    axes.set_xticks(range(len(groups)), names, fontsize=8)
    axes.set_ylabel("promises broken (%)")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(visible=True, axis="y", alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    populations = [
        made_up(),
        recorded("cifar10", "test", "resnet8-w32-s2", "resnet14-w64"),
        recorded("glue/sst2", "validation", "conv-gate", "minilm6"),
    ]
    rows = [
        row
        for population in populations
        for n in LIMITS
        for row in row_of(population, n, options.draws)
    ]
    show(rows)
    write_results(options.out, {"machine": machine(), "draws": options.draws, "rows": rows})
    if options.picture:
        options.picture.write_bytes(draw(rows))


if __name__ == "__main__":
    main()
