"""Rate and latency of a served cascade, next to the rate that its stages allow.

python -m tests.benchmarks.serving [--seconds 20] [--clients 128] [--open 0.8] [--out FILE]

Stages sleep: small 4 + 0.75 n ms for a batch of n, large 80 + 15 n ms, one batch at a time on a
device that they share. In full batches of 16 a sample takes t_small = 1 ms and t_large = 20 ms:
where a share p is deferred, no server can answer more than 1 / (t_small + p t_large) per second.
Answers are compared with those of `Cascade`. Closed loop: clients that ask again at once. Open
loop: arrivals at random, at a share of that rate.
The row `engine` has stages that take no time: its rate is what the engine itself costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import tempfile
import time
from typing import Any

import aiohttp
import torch

from lit_cascade import Cascade
from lit_cascade.report.text import Table, show
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine
from tests.serve import sleeping
from tests.serve.served import serving

BATCH = 16
MODES = {
    "large": "large alone",
    "whole": "cascade in one predict",
    "stages": "a queue per stage",
    "engine": "engine alone",
}


def per_sample(name: str) -> float:
    """Seconds of a sample in a full batch."""
    fixed, each = sleeping.COST[name]
    return fixed / BATCH + each


def ideal(mode: str, deferred: float) -> float:
    """Most answers per second that the stages allow; infinite where they take no time."""
    if mode == "engine":
        return math.inf
    if mode == "large":
        return 1 / per_sample("large")
    return 1 / (per_sample("small") + deferred * per_sample("large"))


async def load(
    port: int, clients: int, warm: float, seconds: float, rate: float | None,
    expected: list[tuple[int, str]] | None,
) -> list[tuple[float, float, str]]:  # fmt: skip
    """Start, end and answering stage of the requests; a failure or wrong answer ends the benchmark.

    Args:
        expected: prediction and stage of each input of the pool; None checks nothing.
    """
    bodies = [json.dumps({"array": one.tolist()}).encode() for one in sleeping.pool()]
    rng, done = random.Random(3), []  # noqa: S311 - arrivals
    order = list(range(len(bodies)))
    rng.shuffle(order)
    limit = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=limit) as session:

        async def ask(number: int, began: float) -> None:
            which = order[number % len(order)]
            async with session.post(
                f"http://127.0.0.1:{port}/predict", data=bodies[which],
                headers={"content-type": "application/json"},
            ) as response:  # fmt: skip
                answer = await response.json()
            if response.status != 200:
                raise RuntimeError(answer)
            told = (answer["prediction"], answer["stage"])
            if expected is not None and told != expected[which]:
                raise RuntimeError(f"input {which}: {told}, expected {expected[which]}")
            done.append((began, time.perf_counter(), answer["stage"]))

        start = time.perf_counter()
        end = start + warm + seconds
        if rate is None:

            async def client(first: int) -> None:
                number = first
                while time.perf_counter() < end:
                    await ask(number, time.perf_counter())
                    number += clients

            await asyncio.gather(*map(client, range(clients)))
        else:
            tasks, at, number = [], start, 0
            while at < end:
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                tasks.append(asyncio.create_task(ask(number, at)))
                number, at = number + 1, at + rng.expovariate(rate)
            await asyncio.gather(*tasks)
    return [one for one in done if start + warm <= one[1] < end]


def summary(done: list[tuple[float, float, str]], seconds: float) -> dict[str, Any]:
    """Rate, and latencies by answering stage in ms."""
    by_stage: dict[str, list[float]] = {"all": []}
    for began, ended, stage in done:
        for kind in ("all", stage):
            by_stage.setdefault(kind, []).append(1000 * (ended - began))
    latencies = {
        kind: {"n": len(some), "p50": quantile(some, 0.5), "p99": quantile(some, 0.99)}
        for kind, some in by_stage.items()
        if some
    }
    return {"per_second": round(len(done) / seconds, 1), "latency_ms": latencies}


def quantile(values: list[float], share: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 1)


def answers(deferred: float) -> list[tuple[int, str]]:
    """Prediction of `Cascade` for each input of the pool, and the stage that answers."""
    with torch.inference_mode():
        cascade = Cascade(sleeping.stages(0.0), sleeping.policy(deferred))
        output = cascade(sleeping.pool())
    names = [cascade.names[k] for k in output.stage.tolist()]
    return list(zip(output.prediction.tolist(), names, strict=True))


def measured(
    mode: str, deferred: float, args: argparse.Namespace, rate: float | None
) -> dict[str, Any]:
    """One server, and one load on it."""
    engine = mode == "engine"
    words = ["--mode", "stages" if engine else mode, "--scale", 0 if engine else 1]
    words += ["--deferred", deferred, "--batch_size", BATCH]
    words += ["--queue_size", 100_000] + (["--wait", args.wait] if args.wait else [])
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(*words, cwd=folder, module="tests.serve.sleeping") as server,
    ):
        right = answers(deferred) if words[1] == "stages" else None
        found = asyncio.run(load(server.port, args.clients, args.warm, args.seconds, rate, right))
        sizes = {
            name: round(
                server.counted("lit_cascade_batch_size_sum", stage=name)
                / max(1.0, server.counted("lit_cascade_batch_size_count", stage=name)), 2,
            )
            for name in ("small", "large")
        }  # fmt: skip
    best = ideal(mode, deferred)
    result = summary(found, args.seconds)
    return {
        "mode": mode, "deferred": deferred, "load": "closed" if rate is None else "open",
        "offered_per_second": rate, "ideal_per_second": None if engine else round(best, 1),
        "share_of_ideal": None if engine else round(result["per_second"] / best, 3),
        "mean_batch": sizes, **result,
    }  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = options_parser(__doc__)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--deferred", nargs="+", type=float, default=[0.1, 0.3])
    parser.add_argument("--clients", type=int, default=128)
    parser.add_argument("--warm", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--wait", type=float, help="of both stages, instead of the measured time")
    parser.add_argument("--open", type=float, nargs="*", default=[0.8], help="shares of the ideal")
    args = parser.parse_args()
    rows = []
    for mode in args.modes:
        for deferred in args.deferred if mode in {"whole", "stages"} else args.deferred[:1]:
            rows.append(measured(mode, deferred, args, None))
            shares = args.open if mode == "stages" else []
            rows += [
                measured(mode, deferred, args, share * ideal(mode, deferred)) for share in shares
            ]
    where = machine()
    title = f"Sleeping stages, {args.clients} clients, {where['cores']} cores"
    heads = ["server", "load", "deferred", "per second", "of the ideal"]
    table = Table(title, *heads, "p50 small", "p99 small", "p50 large", "p99 large")
    for row in rows:
        latency = row["latency_ms"]
        cells = [
            f"{latency[name][p]:.0f} ms" if name in latency else "-"
            for name in ("small", "large")
            for p in ("p50", "p99")
        ]
        share = "-" if row["share_of_ideal"] is None else f"{row['share_of_ideal']:.2f}"
        rate = f"{row['per_second']:.0f}"
        table.add_row(
            MODES[row["mode"]], row["load"], f"{row['deferred']:.0%}", rate, share, *cells
        )
    show(table)
    if args.out:
        settings = {name: value for name, value in vars(args).items() if name != "out"}
        found = {"machine": where, "settings": settings, "batch": BATCH, "rows": rows}
        write_results(args.out, found)


if __name__ == "__main__":
    main()
