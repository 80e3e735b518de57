"""Stages that take the time of an accelerator, and a server of them.

python -m tests.serve.sleeping --port 8000 [--deferred 0.1] [--audit 0]
"""

from __future__ import annotations

import argparse
import fcntl
import os
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from lit_cascade import Policy
from lit_cascade.options import ServingOptions, Share

WIDTH, CLASSES, POOL = 16, 10, 2000
COST = {"small": (4e-3, 0.75e-3), "large": (80e-3, 15e-3)}
"""Seconds per batch, and per sample of it."""


def pool():
    """Inputs of all requests."""
    return torch.randn(POOL, WIDTH, generator=torch.Generator().manual_seed(7))


class Sleeping(nn.Module):
    """A linear classifier that sleeps, one batch at a time on each device.

    Args:
        name: `small` or `large`.
        scale: factor of all times.
        device: file that is locked; None for a device of its own.
    """

    def __init__(self, name: str, scale: float = 1.0, device: str | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed({"small": 1, "large": 2}[name])
            self.net = nn.Linear(WIDTH, CLASSES)
        self.fixed, self.each = (scale * seconds for seconds in COST[name])
        self.device = device

    def forward(self, x):
        with open(self.device or os.devnull) as file:  # noqa: PTH123
            if self.device:
                fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(self.fixed + self.each * len(x))
        return self.net(x)


def stages(scale=1.0, device=None):
    return {name: Sleeping(name, scale, device) for name in COST}


def policy(deferred: float) -> Policy:
    """A policy that defers a share of the pool."""
    if deferred in {0.0, 1.0}:
        return Policy((float("inf") if deferred else float("-inf"),), names=tuple(COST))
    with torch.inference_mode():
        scores = Policy((0.5,)).judge(0, Sleeping("small", 0.0)(pool())).score
    return Policy((scores.double().quantile(deferred).item(),), names=tuple(COST))


def made(deferred: float = 0.1, **options):
    """A server that is not yet started."""
    from lit_cascade.serve import server

    options = ServingOptions(threads=1, **options)
    return server(stages(), policy(deferred), options, example=torch.zeros(WIDTH))


def main() -> None:
    """Serve."""
    from lit_cascade.serve import server

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--deferred", type=float, default=0.1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--queue_size", type=int, default=1024)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--audit", type=float, default=0.0)
    parser.add_argument("--http_workers", type=int, default=1)
    args = parser.parse_args()
    options = ServingOptions(
        port=args.port, batch_size=16, queue_size=args.queue_size, timeout=args.timeout,
        audit=Share(args.audit), threads=1, http_workers=args.http_workers,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        device = str(Path(folder, "device"))
        Path(device).touch()
        parts = stages(args.scale, device)
        server(parts, policy(args.deferred), options, example=torch.zeros(WIDTH)).serve()


if __name__ == "__main__":
    main()
