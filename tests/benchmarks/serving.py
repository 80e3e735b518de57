"""Rate and latency of a served cascade, next to the rate that its stages allow.

python -m tests.benchmarks.serving [--engine ray] [--models cifar10] [--scale 1] [--clients 128]
    [--seconds 20] [--open 0.8] [--out FILE]

With t_small and t_large seconds per sample in full batches of 16 and a share p deferred, stages on
one device answer at most 1 / (t_small + p t_large) per second. Sleeping stages, small 4 + 0.75 n ms
for a batch of n and large 80 + 15 n ms (1 and 20 ms per sample), stand for an accelerator; others
are models of a CPU, on a core of their own, whose times are measured first.
Every answer of a cascade in stages is compared with that of `Cascade`: prediction, stage, score.
Closed loop: clients that ask again at once. Open loop: arrivals at random, at a share of that rate.
The row `engine` has stages that take no time: its rate is what the engine itself costs.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import tempfile
import time
from typing import Any, NamedTuple

import aiohttp
import torch

from lit_cascade.report.text import Table, show
from tests.benchmarks import served
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.served import BATCH, MODES, Kind
from tests.benchmarks.sweep import machine
from tests.serve import sleeping
from tests.serve.served import serving

TITLES = dict(
    zip(
        MODES,
        ("large alone", "cascade in one predict", "a queue per stage", "engine alone"),
        strict=True,
    )
)
CLOSE = 1e-5
"""Largest difference of a score: batches are others."""


class Load(NamedTuple):
    """What is asked of a server.

    Attributes:
        kind: of the requests.
        expected: prediction, stage and score of each request; None checks nothing.
        clients: that ask again at once.
        rate: requests per second that arrive at random, instead.
        warm: seconds that are not counted.
        seconds: that are.
    """

    kind: Kind
    expected: list[tuple[int, str, float]] | None
    clients: int
    rate: float | None
    warm: float
    seconds: float

    async def put_on(self, port: int) -> list[tuple[float, float, str]]:
        """Start, end and answering stage of the requests; a failure or wrong answer ends it.

        Raises:
            RuntimeError: a failure or a wrong answer.
        """
        bodies, done = self.kind.bodies, []
        rng = random.Random(3)  # noqa: S311 - arrivals
        order = list(range(len(bodies)))
        rng.shuffle(order)
        limit, headers = aiohttp.TCPConnector(limit=0), {"content-type": self.kind.content_type}
        async with aiohttp.ClientSession(connector=limit, headers=headers) as session:

            async def ask(number: int, began: float) -> None:
                which = order[number % len(order)]
                url = f"http://127.0.0.1:{port}/predict"
                async with session.post(url, data=bodies[which]) as response:
                    answer = await response.json()
                if response.status != 200:
                    raise RuntimeError(answer)
                if self.expected is not None:
                    prediction, stage, score = self.expected[which]
                    told = (answer["prediction"], answer["stage"])
                    if told != (prediction, stage) or abs(answer["score"] - score) > CLOSE:
                        raise RuntimeError(f"{answer}, expected {self.expected[which]}")
                done.append((began, time.perf_counter(), answer["stage"]))

            start = time.perf_counter()
            end = start + self.warm + self.seconds
            if self.rate is None:

                async def client(first: int) -> None:
                    number = first
                    while time.perf_counter() < end:
                        await ask(number, time.perf_counter())
                        number += self.clients

                await asyncio.gather(*map(client, range(self.clients)))
            else:
                tasks, at, number = [], start, 0
                while at < end:
                    await asyncio.sleep(max(0.0, at - time.perf_counter()))
                    tasks.append(asyncio.create_task(ask(number, at)))
                    number, at = number + 1, at + rng.expovariate(self.rate)
                await asyncio.gather(*tasks)
        return [one for one in done if start + self.warm <= one[1] < end]


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


class Benchmark:
    """Servers of one kind, and loads on them.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self._kind = args, served.kind_of(args.models, 0.0)
        if args.models == "sleeping":
            costs = sleeping.COST.items()
            self.seconds = {name: args.scale * (fix / BATCH + each) for name, (fix, each) in costs}
        else:
            os.sched_setaffinity(0, {0})
            self.seconds = {name: served.seconds_of(self._kind, name) for name in served.NAMES}
            served.leave_a_core()

    def ideal(self, mode: str, deferred: float) -> float:
        """Most answers per second that the stages allow; infinite where they take no time."""
        small, large = self.seconds.values()
        if mode == "engine":
            return math.inf
        return 1 / (large if mode == "large" else small + deferred * large)

    def row(self, mode: str, deferred: float, share: float | None = None) -> dict[str, Any]:
        """One server, and one load on it.

        Args:
            mode: of the server.
            deferred: share of the requests.
            share: of the ideal rate, for an open loop.
        """
        args, engine = self._args, mode == "engine"
        expected = served.expected(self._kind, served.policy_of(self._kind, deferred))
        deferred = sum(stage == "large" for _, stage, _ in expected) / len(expected)
        best = self.ideal(mode, deferred)
        rate = None if share is None else share * best
        words = ["--engine", args.engine, "--models", args.models, "--mode", mode]
        words += ["--scale", 0 if engine else args.scale, "--deferred", deferred]
        words += ["--wait", args.wait] if args.wait else []
        compared = None if mode in {"large", "whole"} else expected
        load = Load(self._kind, compared, args.clients, rate, args.warm, args.seconds)
        with (
            tempfile.TemporaryDirectory() as folder,
            serving(*words, cwd=folder, module="tests.benchmarks.served") as server,
        ):
            found = asyncio.run(load.put_on(server.port))
            sizes, busy = {}, {}
            for name in served.NAMES if mode in {"stages", "engine"} else ["all"]:
                n, batches, seconds = (
                    server.counted(f"lit_cascade_{what}", stage=name)
                    for what in ("batch_size_sum", "batch_size_count", "stage_seconds_sum")
                )
                sizes[name], busy[name] = round(n / batches, 2), round(1000 * seconds / n, 3)
        result = summary(found, args.seconds)
        return {
            "engine": args.engine, "models": args.models, "mode": mode,
            "deferred": round(deferred, 4), "load": "closed" if share is None else "open",
            "offered_per_second": rate, "ideal_per_second": None if engine else round(best, 1),
            "share_of_ideal": None if engine else round(result["per_second"] / best, 3),
            "compared": 0 if compared is None else len(found), "mean_batch": sizes,
            "stage_ms_per_sample": busy, **result,
        }  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = options_parser(__doc__)
    parser.add_argument("--engine", choices=["litserve", "ray"], default="litserve")
    parser.add_argument(
        "--models", choices=["sleeping", "digits", "cifar10", "timm"], default="sleeping"
    )
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--scale", type=float, default=1.0, help="of the times of sleeping stages")
    parser.add_argument("--deferred", nargs="+", type=float, default=[0.1, 0.3])
    parser.add_argument("--clients", type=int, default=128)
    parser.add_argument("--warm", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--wait", type=float, help="of both stages, instead of the measured time")
    parser.add_argument("--open", type=float, nargs="*", default=[], help="shares of the ideal")
    args = parser.parse_args()
    torch.set_num_threads(1)
    benchmark, rows = Benchmark(args), []
    for mode in args.modes:
        if mode == "engine" and args.models != "sleeping":
            continue
        for deferred in args.deferred if mode in {"whole", "stages"} else args.deferred[:1]:
            shares = [None, *(args.open if mode == "stages" else [])]
            rows += [benchmark.row(mode, deferred, share) for share in shares]
    where = machine()
    title = f"{args.engine}, {args.models}, {args.clients} clients, {where['cores']} cores"
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
            TITLES[row["mode"]], row["load"], f"{row['deferred']:.0%}", rate, share, *cells
        )
    show(table)
    if args.out:
        settings = {name: value for name, value in vars(args).items() if name != "out"}
        seconds = {name: round(one, 6) for name, one in benchmark.seconds.items()}
        found = {"machine": where, "settings": settings, "batch": BATCH, "seconds": seconds}
        write_results(args.out, {**found, "rows": rows})


if __name__ == "__main__":
    main()
