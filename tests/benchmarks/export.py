"""ONNX Runtime against eager torch: time of a stage with its score, at batch sizes 1 and 32.

python -m tests.benchmarks.export [--seconds 6] [--out FILE]

One thread each. Calls alternate between the two engines, so that both see the same machine, and
the ratio is that of the medians. Weights are random but for the digits: speed does not depend on
them. Logits of the two engines are compared first.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import onnxruntime
import torch
import transformers
from torch import nn

from lit_cascade import load_cascade
from lit_cascade.core import score_named
from lit_cascade.export.programs import BATCH, LENGTH, Input, ScoredStage, trace, write_onnx
from lit_cascade.models import Timm
from lit_cascade.report.text import Table, show
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine

BATCHES = (1, 32)
LEAST = 5
"""Calls that are timed however long they take."""


class Bert(nn.Module):
    """BERT with 4 layers of width 256, for texts of 64 tokens."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.BertConfig(
            hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
        )
        self.model = transformers.BertForSequenceClassification(config)

    def forward(self, input_ids, attention_mask):
        """Logits (N, 2)."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def stages():
    """Networks by name, with 32 samples of their inputs by name."""
    digits = load_cascade("digits_pair.yaml").networks()
    pixels = {"input": torch.randint(0, 17, (32, 1, 8, 8)).float()}
    yield "digits small", digits["small"], pixels, False
    yield "digits large", digits["large"], pixels, False
    for name in ("mobilenetv3_small_050", "resnet34", "vit_tiny_patch16_224"):
        images = torch.randint(0, 256, (32, 3, 224, 224), dtype=torch.uint8)
        yield name, Timm(name, pretrained=False), {"input": images}, False
    tokens = {
        "input_ids": torch.randint(1000, 30000, (32, 64)),
        "attention_mask": torch.ones(32, 64, dtype=torch.int64),
    }
    yield "BERT, 4 layers of 256", Bert(), tokens, True


def seconds_of(works, budget):
    """Medians of works that are called in turn."""
    found = [[] for _ in works]
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(found[0]) < LEAST:
        for times, work in zip(found, works, strict=True):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
    return [median(times) for times in found], len(found[0])


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    rows = []
    for name, network, arrays, text in stages():
        arguments = list(arrays) if text else [""]
        stage = ScoredStage(network, arguments, score_named("max_softmax"), 1.0).eval()
        inputs = [
            Input(key, argument, array[:2], (BATCH, LENGTH)[: 1 + text])
            for (key, array), argument in zip(arrays.items(), arguments, strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            path = Path(folder) / "stage.onnx"
            stage(*arrays.values())
            with torch.inference_mode(mode=False):
                write_onnx(trace(stage, inputs, name), inputs, stage.outputs, path, name)
            # as run_cascade.py opens it
            slow = ["SkipLayerNormFusion"]
            session = onnxruntime.InferenceSession(path, settings, disabled_optimizers=slow)
            for n in BATCHES:
                tensors = [array[:n] for array in arrays.values()]
                feeds = {key: array[:n].numpy() for key, array in arrays.items()}
                found = torch.from_numpy(session.run(["logits"], feeds)[0])
                difference = float((found - stage(*tensors)[0]).abs().max())
                (eager, engine), calls = seconds_of(
                    [lambda: stage(*tensors), lambda: session.run(None, feeds)],  # noqa: B023
                    options.seconds,
                )
                rows.append(
                    {
                        "stage": name,
                        "batch": n,
                        "torch_ms": round(1e3 * eager, 4),
                        "onnxruntime_ms": round(1e3 * engine, 4),
                        "ratio": round(eager / engine, 2),
                        "calls": calls,
                        "largest_logit_difference": difference,
                    }
                )
    table = Table("ONNX Runtime against eager torch", "stage", "n", "torch ms", "ORT ms", "ratio")
    for row in rows:
        times = (f"{row[key]:.3f}" for key in ("torch_ms", "onnxruntime_ms"))
        table.add_row(row["stage"], str(row["batch"]), *times, f"{row['ratio']:.2f}")
    show(table)
    about = machine() | {"onnxruntime": onnxruntime.__version__}
    write_results(options.out, {"machine": about, "seconds": options.seconds, "rows": rows})


if __name__ == "__main__":
    main()
