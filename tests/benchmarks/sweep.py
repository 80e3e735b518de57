"""What judging every threshold costs, next to one softmax over the same logits.

python -m tests.benchmarks.sweep [--samples 50000] [--classes 1000] [--repeats 9] [--out FILE.json]

Runs are interleaved, so that each ratio compares times of one moment; medians are printed.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lit_cascade import Record
from lit_cascade.analysis.curve import curve as curve_of
from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import SCORES
from tests.benchmarks.results import options_parser, write_results


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def seconds(work) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()

    torch.manual_seed(0)
    labels = torch.randint(0, options.classes, (options.samples,))
    small, large = (
        Record.from_arrays(
            name,
            torch.randn(options.samples, options.classes)
            + strength * torch.nn.functional.one_hot(labels, options.classes),
            labels,
            flops=flops,
        )
        for name, strength, flops in (("small", 4.0, 1e9), ("large", 6.0, 1e10))
    )
    reused = torch.empty_like(small.logits)
    works = {
        "softmax": lambda: small.logits.softmax(dim=1),
        "softmax into memory at hand": lambda: torch.softmax(small.logits, 1, out=reused),
    } | {
        f"sweep by {score}": lambda score=score: curve_of(
            [small, large], Policy(stages=2, score=score)
        )
        for score in SCORES
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        seconds(work)  # warm-up
    for _ in range(options.repeats):
        for name, work in works.items():
            times[name].append(seconds(work))

    table = Table(
        *("", "median", "least", "most", "x softmax"),
        title=f"{options.samples:,} samples of {options.classes:,} classes, float32",
    )
    results = {}
    for name, measured in times.items():
        ratio = statistics.median(t / s for t, s in zip(measured, times["softmax"], strict=True))
        results[name] = {"seconds": statistics.median(measured), "ratio_to_softmax": ratio}
        table.add_row(
            name, *(f"{1000 * f(measured):.0f} ms" for f in (statistics.median, min, max)),
            f"{ratio:.2f}",
        )  # fmt: skip
    console = Console(width=100)
    console.print(table)
    console.print(machine())
    content = {"machine": machine(), "samples": options.samples, "classes": options.classes}
    write_results(options.out, content | {"times": results})


if __name__ == "__main__":
    main()
