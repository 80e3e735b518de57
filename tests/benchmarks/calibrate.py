"""What fitting a temperature costs, next to plain L-BFGS in single precision.

python -m tests.benchmarks.calibrate [--samples 50000] [--classes 1000] [--repeats 5]
    [--out FILE.json]

Runs are interleaved, so that each ratio compares times of one moment; medians are printed. The gap
is to the optimum that scipy finds in double precision.
"""

from __future__ import annotations

import statistics

import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy, one_hot

from lit_cascade import fit_temperature
from lit_cascade.core.calibration import negative_log_likelihood
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine, seconds


def by_lbfgs(logits, labels) -> float:
    """Temperature by L-BFGS with a line search on log T, as one writes it by hand."""
    log_temperature = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(logits / log_temperature.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_temperature.exp().item()


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    torch.manual_seed(0)
    labels = torch.randint(0, options.classes, (options.samples,))
    logits = torch.randn(options.samples, options.classes) + 3 * one_hot(labels, options.classes)
    half = logits.half()
    works = {
        "L-BFGS, float32": lambda: by_lbfgs(logits, labels),
        "fit_temperature, float32": lambda: fit_temperature(logits, labels).temperature,
        "fit_temperature, float16": lambda: fit_temperature(half, labels).temperature,
    }
    best = minimize_scalar(
        lambda t: negative_log_likelihood(logits, labels, t),
        bracket=(0.5, 1.0),
        options={"xtol": 1e-8},
    )
    found = {name: work() for name, work in works.items()}  # warm-up
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.repeats):
        for name, work in works.items():
            times[name].append(seconds(work))

    table = Table(
        *("", "median", "least", "most", "x L-BFGS", "T", "NLL above the optimum"),
        title=f"{options.samples:,} samples of {options.classes:,} classes",
    )
    results = {}
    for name, measured in times.items():
        pairs = zip(measured, next(iter(times.values())), strict=True)
        ratio = statistics.median(one / other for one, other in pairs)
        # rounded to half precision the logits have another optimum
        gap = negative_log_likelihood(logits, labels, found[name]) - best.fun
        results[name] = {
            "seconds": statistics.median(measured),
            "ratio_to_lbfgs": ratio,
            "temperature": found[name],
            "gap": gap,
        }
        table.add_row(
            name, *(f"{1000 * f(measured):.0f} ms" for f in (statistics.median, min, max)),
            f"{ratio:.2f}", f"{found[name]:.7f}", f"{gap:.1e}",
        )  # fmt: skip
    console = Console(width=110)
    console.print(table)
    console.print(machine())
    content = {"machine": machine(), "samples": options.samples, "classes": options.classes}
    write_results(options.out, content | {"fits": results})


if __name__ == "__main__":
    main()
