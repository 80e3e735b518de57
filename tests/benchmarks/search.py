"""How long a search of a zoo of hundreds of models takes, and what pruning loses.

python -m tests.benchmarks.search [--models 600] [--samples 50000] [--repeats 3] [--out FILE.json]

Each search runs in a process of its own, whose peak of memory includes the zoo.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from lit_cascade.core.search.front import average_compute_reduction, default_bands
from lit_cascade.core.search.search import SearchSettings, search_zoo
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine
from tests.zoos import synthetic_zoo


def measure(models: int, samples: int, stages: int, candidates: int) -> dict[str, Any]:
    """One search, in this process."""
    zoo = synthetic_zoo(models, samples)
    settings = SearchSettings(stages=stages, candidates=candidates)
    start = time.perf_counter()
    found = search_zoo(zoo, settings)
    seconds = time.perf_counter() - start
    singles, _ = zoo.singles()
    return {
        "models": models,
        "samples": samples,
        "stages": stages,
        "candidates": min(candidates, models) if stages == 3 else None,
        "thresholds": settings.thresholds_for(zoo),
        "seconds": seconds,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "points": len(found),
        "average_compute_reduction": [
            average_compute_reduction(singles, found.front, band) for band in default_bands(singles)
        ],
    }


def in_a_process(**options: int) -> dict[str, Any]:
    """One search, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.search", "--one", json.dumps(options)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--models", type=int, default=600)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**options.one)))
        return

    size = {"models": options.models, "samples": options.samples}
    enumerable = {"models": 60, "samples": 5000}
    cases = {
        "pairs": size | {"stages": 2, "candidates": 96},
        "triples of 96 candidates": size | {"stages": 3, "candidates": 96},
        "small zoo, all triples": enumerable | {"stages": 3, "candidates": 60},
        "small zoo, triples of 32 candidates": enumerable | {"stages": 3, "candidates": 32},
        "small zoo, triples of 16 candidates": enumerable | {"stages": 3, "candidates": 16},
    }
    table = Table(
        *("", "models x samples", "cascades", "thresholds", "median", "least", "most", "memory"),
        *("top half", "top quarter"),
    )
    results = {}
    for name, case in cases.items():
        runs = [in_a_process(**case) for _ in range(options.repeats)]
        seconds = [run.pop("seconds") for run in runs]
        found = runs[0]
        made = min(found["candidates"] or 0, found["models"])
        cascades = math.comb(found["models"], 2) + math.comb(made, 3)
        found |= {"cascades": cascades, "seconds": statistics.median(seconds), "runs": seconds}
        results[name] = found
        table.add_row(
            name,
            f"{found['models']} x {found['samples']:,}",
            f"{cascades:,}",
            f"{found['thresholds']:,}",
            *(f"{f(seconds):.1f} s" for f in (statistics.median, min, max)),
            f"{max(run['peak_bytes'] for run in runs) / 1e9:.2f} GB",
            *(f"{ratio:.4f}x" for ratio in found["average_compute_reduction"]),
        )
    console = Console(width=140)
    console.print(table)
    console.print(machine())
    write_results(options.out, {"machine": machine(), "searches": results})


if __name__ == "__main__":
    main()
