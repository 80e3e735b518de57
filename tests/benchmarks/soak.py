"""A served cascade under valid, malformed and abandoned requests for minutes: answers and memory.

python -m tests.benchmarks.soak [--seconds 600] [--clients 16] [--out FILE]

Two thirds of the requests are valid, and their answers are compared with those of `Cascade`. Others
are fuzzed bodies, which must be refused or answered, and clients that leave. Memory is that of all
processes of the server, after the first tenth of the time and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
import psutil

from tests.benchmarks import served
from tests.benchmarks.sweep import machine
from tests.serve import sleeping
from tests.serve.served import Server, serving

DEFERRED, SCALE = 0.3, 0.02
_HEADERS = {"content-type": "application/json"}


def fuzzed(body: bytes, rng: random.Random) -> bytes:
    """A body with some bytes changed, cut off or repeated."""
    content = bytearray(body)
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(content))
        if rng.random() < 0.6:
            content[place] = rng.randrange(256)
        elif rng.random() < 0.5 and place:
            del content[place:]
        else:
            content += content[place:]
    return bytes(content)


def memory(server: Server) -> float:
    """MB that the server's processes have for themselves, shared pages divided among them."""
    processes = [psutil.Process(server.process.pid), *server.family()]
    return sum(one.memory_full_info().pss for one in processes) / 1e6


async def soak(port: int, clients: int, end: float) -> Counter[str]:
    """What came back, by kind and status.

    Raises:
        RuntimeError: a wrong answer, or a status that is none of those that are documented.
    """
    kind, found = served.kind_of("sleeping", 0.0), Counter[str]()
    expected = [one[:2] for one in served.expected(kind, sleeping.policy(DEFERRED))]
    bodies, url = kind.bodies, f"http://127.0.0.1:{port}/predict"

    async def client(number: int) -> None:
        rng = random.Random(number)  # noqa: S311
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout, headers=_HEADERS) as session:
            while time.monotonic() < end:
                which, kind = rng.randrange(len(bodies)), rng.random()
                if kind < 0.1:  # leaves before the answer
                    try:
                        short = aiohttp.ClientTimeout(total=0.002)
                        async with session.post(url, data=bodies[which], timeout=short):
                            found["answered at once"] += 1
                    except TimeoutError:
                        found["left"] += 1
                    continue
                valid = kind > 1 / 3
                body = bodies[which] if valid else fuzzed(bodies[which], rng)
                async with session.post(url, data=body) as response:
                    answer = await response.json()
                found[f"{'valid' if valid else 'fuzzed'}: {response.status}"] += 1
                told = (answer.get("prediction"), answer.get("stage"))
                right = (
                    told == expected[which] if valid else response.status in {200, 400, 413, 422}
                )
                if not right:
                    raise RuntimeError(f"{response.status} {answer}, of {body[:200]!r}")

    await asyncio.gather(*map(client, range(clients)))
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--out")
    args = parser.parse_args()
    words = ["--deferred", DEFERRED, "--scale", SCALE, "--audit", 0.05]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(*words, cwd=folder, module="tests.serve.sleeping") as server,
    ):
        start = time.monotonic()
        found = asyncio.run(soak(server.port, args.clients, start + args.seconds / 10))
        before = memory(server)
        found += asyncio.run(soak(server.port, args.clients, start + args.seconds))
        after, restarts = memory(server), server.counted("lit_cascade_worker_restarts_total")
    result = {
        "seconds": args.seconds, "requests": dict(sorted(found.items())), "restarts": restarts,
        "memory_mb": {"after a tenth": round(before, 1), "at the end": round(after, 1)},
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if args.out:
        content = {"machine": machine(), **result}
        Path(args.out).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
