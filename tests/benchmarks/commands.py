"""Runs of whole commands: time and memory as the kernel counts them, and records to run them on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch.nn.functional import one_hot

from lit_cascade import Record

FIGURES = ("wall_s", "user_s", "system_s", "page_faults", "peak_mib")

_BLOCK_ELEMENTS = 2**22

_START = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps({
    "code": os.waitstatus_to_exitcode(status), "wall_s": time.perf_counter() - start,
    "user_s": usage.ru_utime, "system_s": usage.ru_stime, "page_faults": usage.ru_minflt,
    "peak_mib": usage.ru_maxrss / 1024,
}))
"""


def run(
    words: Sequence[str],
    environment: Mapping[str, str] | None = None,
    accepted: Collection[int] = (0,),
    checkout: Path | None = None,
) -> dict[str, float]:
    """Run `lit-cascade` with some words; figures of the process and its children.

    Args:
        words: command and options.
        environment: of the process; by default that of this one.
        accepted: exit codes other than those of a failure.
        checkout: whose code runs; by default this one's. Paths in `words` must be absolute.

    Raises:
        SystemExit: the command failed.
    """
    words = [sys.executable, "-m", "lit_cascade", *words]
    # The kernel counts the memory of the process that starts another as if it were the other's, so
    # that a small process starts the command.
    done = subprocess.run(
        [sys.executable, "-I", "-c", _START, *words],
        env=dict(os.environ if environment is None else environment),
        cwd=checkout or Path(__file__).parents[2],  # python -m looks there first
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures = json.loads(done.stdout)
    if figures.pop("code") not in accepted:
        raise SystemExit(f"{' '.join(words[2:])} failed.")
    return dict(figures)


def synthetic_logits(
    labels: torch.Tensor,
    classes: int,
    strength: float,
    model: int,
    dtype: torch.dtype,
    seed: int = 0,
) -> torch.Tensor:
    """Logits (N, C) of a model: noise, of which half is common to all models, and the right class.

    The right class has `strength` more, and a sample's difficulty scales that.
    """
    logits = torch.empty(len(labels), classes, dtype=dtype)
    rows = max(1, _BLOCK_ELEMENTS // classes)
    for block, start in enumerate(range(0, len(labels), rows)):
        some = labels[start : start + rows]
        common = torch.Generator().manual_seed(2 * block + seed)
        own = torch.Generator().manual_seed(1_000_003 * (model + 1) + 2 * block + seed)
        noise = torch.randn(len(some), classes, generator=common)
        noise += torch.randn(len(some), classes, generator=own)
        ease = 2 * torch.rand(len(some), 1, generator=common)
        logits[start : start + rows] = noise + strength * ease * one_hot(some, classes)
    return logits


def write_records(
    folder: Path, strengths: Sequence[float], samples: int, classes: int, seed: int = 0
) -> list[Path]:
    """Write records of models on the same samples, with logits in float16, cheapest first.

    The k-th model costs 4^k GFLOPs; `strengths` makes them more or less accurate.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = torch.randint(0, classes, (samples,), generator=torch.Generator().manual_seed(seed))
    data = {"name": "synthetic", "split": "test", "source": f"synthetic{seed}"}
    paths = []
    for k, strength in enumerate(strengths):
        path = folder / f"model{k}.safetensors"
        logits = synthetic_logits(labels, classes, strength, k, torch.float16, seed)
        Record.from_arrays(path.stem, logits, labels, flops=1e9 * 4.0**k, data=data).save(path)
        paths.append(path)
    return paths
