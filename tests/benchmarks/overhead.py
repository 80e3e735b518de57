"""What the cascade itself spends on one sample on the CPU, by score and combination.

python -m tests.benchmarks.overhead [--classes 1000] [--repeats 7] [--out FILE]

Its stages take no time, so that all there is to time is the cascade. Each figure is the median of
2,000 calls; of the repeats, the median and the range are shown.
"""

from __future__ import annotations

import time
from statistics import median

import torch
from torch import nn

from lit_cascade import Cascade, Policy
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.scores import SCORES
from lit_cascade.report.text import Table, show
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine


def shown(seconds: list[float]) -> str:
    """Microseconds: median, and range."""
    least, most = min(seconds), max(seconds)
    return f"{median(seconds) * 1e6:.0f} us ({least * 1e6:.0f} to {most * 1e6:.0f})"


class Constant(nn.Module):
    """A stage that takes no time: it returns the same logits for any inputs."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs):
        return self.logits


def own_overhead(policy: Policy, classes: int, repeats: int = 2000) -> tuple[float, float]:
    """Seconds that a cascade of two stages takes for one sample on the CPU, beside its stages.

    Where the first stage answers, and where it defers.
    """
    logits = torch.randn(1, classes, generator=torch.Generator().manual_seed(0))
    sample, overheads = torch.zeros(1, 3, 32, 32), []
    for threshold in (float("-inf"), float("inf")):
        two = Policy((threshold,), policy.score, combine=policy.combine)
        cascade = Cascade([Constant(logits), Constant(logits)], two).eval()
        with torch.inference_mode():
            seconds = []
            for _ in range(repeats + 100):
                start = time.perf_counter()
                cascade(sample)
                seconds.append(time.perf_counter() - start)
        overheads.append(median(seconds[100:]))
    return overheads[0], overheads[1]


def main() -> None:
    """Run the benchmark."""
    parser = options_parser(__doc__)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    rows = []
    for combine in COMBINATIONS:
        for score in SCORES:
            policy = Policy((0.0,), score, combine=combine)
            tries = [own_overhead(policy, args.classes) for _ in range(args.repeats)]
            answers, defers = (list(column) for column in zip(*tries, strict=True))
            rows.append({"score": score, "combine": combine, "answers": answers, "defers": defers})
    where = machine()
    title = f"One sample of {args.classes} classes, {where['processor']}, {where['cores']} cores"
    table = Table(title, "score", "combine", "first stage answers", "it defers")
    for row in rows:
        table.add_row(row["score"], row["combine"], shown(row["answers"]), shown(row["defers"]))
    show(table)
    if args.out:
        found = {"machine": where, "classes": args.classes, "seconds": rows}
        write_results(args.out, found)


if __name__ == "__main__":
    main()
