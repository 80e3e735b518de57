"""How much of what its arithmetic allows a live cascade makes real: the models alone.

python -m tests.benchmarks.speed [--small NAME --large NAME] [--image 160] [--samples 2048]
    [--batch_size 256] [--dtype float32] [--channels_last] [--compile] [--repeats 5] [--out FILE]

Two timm models with random weights answer random images; thresholds are set to defer given shares.
Every stage alone and the cascade at every threshold run over the same batches in each repeat, and
ratios are made within a repeat. Runs on a GPU where there is one. Also prints what the cascade
itself costs at batch size 1 on the CPU, with stages that take no time.
"""

from __future__ import annotations

from statistics import median

import timm
import torch
from torch import nn

from lit_cascade import Cascade, Policy
from lit_cascade.live.benchmark import latencies, thresholds_at, throughput
from lit_cascade.report.speed import latency_table, pace_table, speed_rows
from lit_cascade.report.text import show
from tests.benchmarks.overhead import own_overhead
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine

RATES = (0.05, 0.1, 0.2, 0.4, 0.8)


class Network(nn.Module):
    """A model in the type of numbers that images come in."""

    def __init__(self, name: str, dtype: torch.dtype, *, channels_last: bool, compiled: bool):
        super().__init__()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = timm.create_model(name).eval().to(dtype=dtype, memory_format=layout)
        if compiled:
            self.model.compile()

    def forward(self, images):
        return self.model(images)


def main() -> None:
    """Run the benchmark."""
    parser = options_parser(__doc__)
    parser.add_argument("--small", default="mobilenetv3_small_050")
    parser.add_argument("--large", default="resnet18")
    parser.add_argument("--image", type=int, default=160)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--gather", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    form = {"channels_last": args.channels_last, "compiled": args.compile}
    names = {name: Network(name, dtype, **form) for name in (args.small, args.large)}
    cascade = Cascade(names, Policy((float("inf"),))).eval().to(device)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    batches = [
        torch.randn(args.batch_size, 3, args.image, args.image, device=device, dtype=dtype)
        .contiguous(memory_format=layout)
        for _ in range(args.samples // args.batch_size)
    ]  # fmt: skip
    with torch.inference_mode():
        thresholds = [thresholds_at(cascade, batches, rate) for rate in RATES]
    speeds = throughput(cascade, batches, thresholds, args.repeats, args.gather)
    alone, together = latencies(cascade, batches[0][:32], thresholds[1:2])
    answers, defers = own_overhead(cascade.policy, 1000)
    own = f"The cascade itself, one sample, CPU: {answers * 1e6:.0f} us where the first stage "
    own += f"answers, {defers * 1e6:.0f} us where it defers."
    where = torch.cuda.get_device_name() if device.type == "cuda" else machine()
    on = where if isinstance(where, str) else f"{where['processor']}, {where['threads']} threads"
    title = f"{on}, {args.dtype}, batches of {args.batch_size}, images of {args.image}"
    show(
        pace_table(title, list(names), speeds),
        latency_table(list(names), alone, thresholds[1:2], together),
        own,
    )
    ratio = median(speeds[0].stages[-1]) / median(speeds[0].stages[0])
    print(f"{args.large} takes {ratio:.1f} times as long as {args.small}.")
    if args.out:
        found = {
            "machine": where,
            "torch": torch.__version__,
            "settings": {key: value for key, value in vars(args).items() if key != "out"},
            "cost_ratio": ratio,
            "stages": {name: list(one) for name, one in zip(names, speeds[0].stages, strict=True)},
            "cascade": speed_rows(list(names), speeds),
            "latency_one_sample": {
                "alone": {name: one._asdict() for name, one in zip(names, alone, strict=True)},
                "cascade": [
                    {"thresholds": list(values), **one._asdict()}
                    for values, one in zip(thresholds[1:2], together, strict=True)
                ],
            },
            "own_overhead_s": {"answers": answers, "defers": defers},
        }
        write_results(args.out, found)


if __name__ == "__main__":
    main()
