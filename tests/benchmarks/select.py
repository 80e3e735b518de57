"""How long selecting thresholds takes, for every target, where a policy is granted or refused.

python -m tests.benchmarks.select [--samples 50000] [--stages 2 3] [--confidence 0.95]
    [--out FILE.json]

The models are synthetic; the dearest is the last stage. Costs are the same for all samples, or vary
among them (marked by *). Times are of the processor, in this process.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from lit_cascade.analysis.selection import select_thresholds
from lit_cascade.core import StageOutcomes
from lit_cascade.core.guarantee import Promise
from lit_cascade.core.guarantee.bounds import paired_p_value
from lit_cascade.report.text import Table, show
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine
from tests.zoos import synthetic_zoo

# limits from wide to narrow; that of accuracy is below the last stage's, of cost a share of its own
LIMITS = {
    "accuracy_drop": (0.03, 0.01, 0.001, 0.0001, 0.0),
    "accuracy": (0.03, 0.01, 0.001, -0.02),
    "disagreement": (0.2, 0.05, 0.001, 0.0001),
    "deferral_rate": (0.6, 0.1, 0.0001),
    "cost": (0.8, 0.3, 0.0001),
    "cost_ratio": (0.8, 0.3, 0.0001),
}


def outcomes_of(stages: int, samples: int, *, varied: bool, seed: int = 0) -> StageOutcomes:
    """Outcomes of some models of a zoo; one gives the last one's answer where both are right."""
    zoo = synthetic_zoo(12, samples, seed)
    rows = torch.linspace(2, 11, stages).round().long()
    correct = zoo.correct[rows].T.contiguous()
    generator = torch.Generator().manual_seed(seed)
    costs = zoo.costs[rows].T.expand(samples, stages).clone()
    if varied:
        costs *= 0.5 + torch.rand(samples, 1, generator=generator)
    chance = torch.rand(correct.shape, generator=generator) < 0.3
    agrees = (correct & correct[:, -1:]) | (~correct & ~correct[:, -1:] & chance)
    agrees[:, -1] = True
    return StageOutcomes(zoo.scores[rows[:-1]].T.contiguous(), correct, costs, agrees=agrees)


def measured(outcomes: StageOutcomes, promise: Promise) -> dict[str, Any]:
    """One selection: its time and its result."""
    paired_p_value.cache_clear()
    start = time.process_time()
    selection = select_thresholds(outcomes, promise)
    return {
        "cpu_s": time.process_time() - start,
        "granted": selection.chosen is not None,
        "candidates": len(selection.candidates),
        "certified": selection.certified,
        "needed": selection.needed,
    }


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--confidence", type=float, nargs="+", default=[0.95])
    parser.add_argument("--plain", action="store_true", help="without a guarantee, too")
    args = parser.parse_args()
    title = f"{args.samples:,} samples"
    table = Table(title, "target", "limit", "confidence", "stages", "granted", "CPU s", "needed")
    rows: list[dict[str, Any]] = []
    for stages in args.stages:
        for varied in (False, True):
            outcomes = outcomes_of(stages, args.samples, varied=varied)
            assert outcomes.alone is not None
            last = float(outcomes.alone[:, -1].double().mean())
            of = {"accuracy": lambda loss, last=last: last - loss}
            of["cost"] = lambda share, cost=outcomes.last_cost: share * cost
            # hardly above the first stage's cost, so that many more samples would do
            share = 1.001 * float(outcomes.costs[:, 0].double().mean()) / outcomes.last_cost
            for target, limits in LIMITS.items():
                for size in (*limits, *[share] * target.startswith("cost")):
                    limit = of.get(target, float)(size)
                    for sure in [*args.confidence, *([None] if args.plain else [])]:
                        row = {"target": target, "limit": limit, "confidence": sure}
                        row |= {"stages": stages, "varied_costs": varied}
                        rows.append(row | measured(outcomes, Promise(target, limit, sure)))
                        row = rows[-1]
                        table.add_row(
                            target + "*" * varied, f"{limit:.4g}", str(sure), str(stages),
                            "yes" if row["granted"] else "no", f"{row['cpu_s']:.2f}",
                            str(row["needed"] or ""),
                        )  # fmt: skip
    show(table)
    if args.out:
        settings = {k: v for k, v in vars(args).items() if k != "out"}
        content = {"machine": machine(), "settings": settings, "runs": rows}
        write_results(args.out, content)


if __name__ == "__main__":
    main()
