"""Metrics on one of several processes.

python -m tests.lit.metric_work FOLDER; writes 0.pt, 1.pt, ...
"""

import os
import sys
from functools import partial
from pathlib import Path

import torch

from lit_cascade import (
    AURC,
    CascadeAccuracy,
    CascadeFLOPs,
    CascadeMetrics,
    DeferralQuality,
    DeferralRate,
)

THRESHOLDS = [0.4, 0.5, 0.8]

METRICS = {
    "CascadeAccuracy": partial(CascadeAccuracy, THRESHOLDS),
    "DeferralRate": partial(DeferralRate, THRESHOLDS),
    "CascadeFLOPs": partial(CascadeFLOPs, THRESHOLDS, relative=True),
    "CascadeMetrics": partial(CascadeMetrics, THRESHOLDS, metric="f1_macro", num_classes=3),
    "AURC": AURC,
    "DeferralQuality": DeferralQuality,
}

PARTS = {
    "CascadeAccuracy": lambda logits, labels, flops: {"logits": logits, "labels": labels},
    "DeferralRate": lambda logits, labels, flops: {"logits": logits},
    "CascadeFLOPs": lambda logits, labels, flops: {"logits": logits, "flops": flops},
    "CascadeMetrics": lambda logits, labels, flops: {
        "logits": logits, "labels": labels, "flops": flops,
    },
    "AURC": lambda logits, labels, flops: {"logits": logits, "labels": labels},
    "DeferralQuality": lambda logits, labels, flops: {"logits": logits, "labels": labels},
}  # fmt: skip
"""What each metric needs."""


def batches(kind, stages=2):
    """Logits of all stages, labels and FLOPs of one, or of 23 samples in batches of 5."""
    generator = torch.Generator().manual_seed(5)
    n = 1 if kind == "one" else 23
    logits = [torch.randn(n, 3, generator=generator) for _ in range(stages)]
    if kind == "ties":
        logits = [stage.round() for stage in logits]
    if kind == "equal":
        logits = [torch.eye(3)[torch.randint(3, (n,), generator=generator)] for _ in logits]
    labels = torch.randint(3, (n,), generator=generator)
    flops = torch.randint(1, 100, (n, stages), generator=generator).double()
    for part in torch.arange(n).split(5):
        yield [stage[part] for stage in logits], labels[part], flops[part]


def figures(rank, count):
    """The values of all metrics on the batches of this process, as plain numbers."""
    found = {}
    for kind in ("random", "one"):
        for name, make in METRICS.items():
            metric = make()
            for number, part in enumerate(batches(kind)):
                if number % count == rank:
                    metric.update(**PARTS[name](*part))
            value = metric.compute()
            values = value if isinstance(value, dict) else {"": value}
            found[f"{kind}.{name}"] = {
                key: [f"{x:.12g}" for x in one.reshape(-1).tolist()] for key, one in values.items()
            }
    return found


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.save(figures(rank, count), Path(sys.argv[1]) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
