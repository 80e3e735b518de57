"""What timm's networks cost by our count, next to the tables that timm publishes.

python -m tests.benchmarks.timm_flops --tables DIR [--out FILE.csv] [--models NAME ...] [--all]

DIR holds timm's `benchmark-infer-*.csv`; of a network in several tables the last one counts, in the
order of their names. The networks have random weights. --all goes through every row of the
tables without running it (on torch's device "meta"), which takes some ten minutes.

The tables were made by fvcore. It counts multiply-adds as we do, and besides: normalisations,
2 per value for batch norm (5 in training, which is how NFNets scale their weights) and 5 for layer
and group norm, or 1 less without a weight; pooling to a given size, 1 per value that goes in;
resizing, 1 (nearest) or 4 (bilinear) per value that comes out. It knows no formula for convolutions
whose padding is given as a word, and none for recurrent layers. What it must have said is worked
out from these rules and compared with what was published.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console
from rich.table import Table
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from torch.overrides import TorchFunctionMode

from lit_cascade import count_flops
from lit_cascade.live.flops import count_parameters, counting
from lit_cascade.models import Architecture, build_architecture
from tests.benchmarks.sweep import machine

# The image size says which row of the tables; most networks have several.
MODELS = {
    "resnet18": 224, "resnet50": 224, "seresnext50_32x4d": 224, "ecaresnext26t_32x4d": 224,
    "ecaresnext50t_32x4d": 224, "res2net50_26w_4s": 224, "regnety_032": 224, "vgg16": 224,
    "inception_v3": 299, "xception41": 299, "densenet121": 224, "rdnet_tiny": 224, "dla60": 224,
    "hrnet_w18": 224, "cspdarknet53": 256, "repvgg_a2": 224, "mobileone_s1": 224,
    "dm_nfnet_f0": 192, "nfnet_l0": 224, "efficientnet_b0": 224, "tf_efficientnetv2_s": 300,
    "mnasnet_100": 224, "mobilenetv3_large_100": 224, "mobilenetv4_conv_medium": 256,
    "ghostnet_100": 224, "ghostnetv2_100": 224, "convnext_tiny": 224, "convnextv2_tiny": 224,
    "convmixer_768_32": 224, "focalnet_tiny_srf": 224, "poolformer_s24": 224,
    "inception_next_tiny": 224, "mambaout_tiny": 224, "starnet_s2": 224, "fasternet_t2": 224,
    "mixer_b16_224": 224, "resmlp_24_224": 224, "gmlp_s16_224": 224, "sequencer2d_s": 224,
    "vit_dwee_patch16_reg1_gap_256": 256, "vit_small_patch16_224": 224, "vit_base_patch16_224": 224,
    "deit3_small_patch16_224": 224, "beit_base_patch16_224": 224, "eva02_small_patch14_336": 336,
    "cait_xxs24_224": 224, "xcit_tiny_12_p16_224": 224, "crossvit_15_240": 240, "convit_small": 224,
    "volo_d1_224": 224, "pit_s_224": 224, "hiera_tiny_224": 224, "mvitv2_tiny": 224,
    "swin_tiny_patch4_window7_224": 224, "swinv2_tiny_window8_256": 256, "twins_svt_small": 224,
    "pvt_v2_b1": 224, "davit_tiny": 224, "gcvit_tiny": 224, "tiny_vit_5m_224": 224,
    "maxvit_tiny_tf_224": 224, "coatnet_0_rw_224": 224, "coat_lite_small": 224, "caformer_s18": 224,
    "levit_256": 224, "efficientvit_b1": 224, "efficientvit_m5": 224, "efficientformer_l1": 224,
    "fastvit_sa12": 256, "edgenext_small": 256, "mobilevit_s": 256, "mobilevitv2_100": 256,
    "mobilenetv4_hybrid_medium": 256, "botnet26t_256": 256, "halonet26t": 256,
    "lambda_resnet26t": 256,
}  # fmt: skip
WITHIN = 0.03
_ROUNDED = 0.006  # tables have two decimals; a little more, for halves
_NEITHER_WEIGHT = ("bmm", "baddbmm")  # products of two tensors of which neither is a weight, or so


@dataclass(frozen=True)
class Published:
    """A row of timm's tables; the size is that of the image, parameters are in millions."""

    model: str
    size: int
    gmacs: float
    parameters: float
    table: str


@dataclass(frozen=True)
class Comparison:
    """Our count beside the published one, in 1e9 multiply-adds but for `flops`.

    `norms_and_pools` is what the published tool counts and we do not, `unseen` the reverse, and
    `predicted` what it must therefore have said. Where another variant of the network was
    published, `as_published` is our count of that, and `predicted` is of it. `attention` is the
    part of ours in which activations are multiplied by activations.
    """

    model: str
    size: int
    table: str
    published: float
    flops: int
    measured: float
    ratio: float
    attention: float
    norms_and_pools: float
    unseen: float
    as_published: float | None
    predicted: float
    reason: str

    @property
    def explained(self) -> bool:
        """Whether what is left between the two is rounding."""
        return abs(self.predicted - self.published) <= _ROUNDED


class Differences(TorchFunctionMode):
    """Multiply-adds that the published tool counts and we do not, and the reverse."""

    def __init__(self) -> None:
        super().__init__()
        self.extra: Counter[str] = Counter()
        self.unseen: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is F.batch_norm:
            self._batch_norm(*args, **kwargs)
        elif func in {F.layer_norm, F.group_norm}:
            weight = args[2] if len(args) > 2 else kwargs.get("weight")
            self.extra["norms"] += (5 - (weight is None)) * args[0].numel()
        elif func is F.adaptive_avg_pool2d:
            self.extra["pooling"] += args[0].numel()
        elif func is F.interpolate:
            per_value = {"nearest": 1, "bilinear": 4}.get(kwargs.get("mode", "nearest"), 0)
            self.extra["resizing"] += per_value * out.numel()
        elif func is F.conv2d:
            padding = args[4] if len(args) > 4 else kwargs.get("padding", 0)
            if isinstance(padding, str):
                self.unseen["padding by name"] += out.numel() * prod(args[1].shape[1:])
        elif func is torch.lstm:
            weights = (weight for weight in args[2] if weight.ndim == 2)
            steps = prod(args[0].shape[:-1])
            self.unseen["recurrent layers"] += steps * sum(weight.numel() for weight in weights)
        return out

    def _batch_norm(self, x, mean, var, weight=None, bias=None, training=False, *_, **__):
        per_value = (5 if training else 2) - (weight is None)
        self.extra["norms"] += per_value * x.numel()

    @property
    def total(self) -> int:
        """What must be added to our count."""
        return self.extra.total() - self.unseen.total()


def read_tables(folder: Path) -> dict[tuple[str, int], Published]:
    """The published figures by model and image size; of several tables the last one counts."""
    rows: dict[tuple[str, int], Published] = {}
    for path in sorted(folder.glob("benchmark-infer-*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["infer_gmacs"]:
                    key = row["model"], int(row["infer_img_size"])
                    gmacs, parameters = float(row["infer_gmacs"]), float(row["param_count"])
                    rows[key] = Published(*key, gmacs, parameters, path.stem)
    return rows


def count(model: nn.Module, image: Tensor) -> tuple[int, int, Differences]:
    """Multiply-adds by our count, those of activations with activations, and the differences."""
    with counting() as counter, Differences() as differences:
        flops = count_flops(model, image)
    products = sum(
        flops
        for operator, flops in counter.get_flop_counts()["Global"].items()
        if (name := operator.__name__) in _NEITHER_WEIGHT or name.startswith("_scaled_dot_product")
    )
    return flops // 2, products // 2, differences


def unfused(model: nn.Module) -> nn.Module:
    """The network with attention as products and a softmax."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


_VARIANTS = {"branches merged": reparameterize_model, "attention not fused": unfused}


def compare(published: Published, device: str = "cpu") -> Comparison:
    """Measure a network and say where a difference comes from."""
    with torch.device(device):
        model, shape = build_architecture(Architecture("timm", published.model), published.size)
        model, image = model.model, torch.zeros(1, *shape)
    parameters = count_parameters(model) / 1e6
    macs, attention, differences = count(model, image)
    predicted, as_published = (macs + differences.total) / 1e9, None
    reasons = list(differences.unseen)
    if abs(predicted - published.gmacs) > _ROUNDED:
        reasons = ["not explained"]
        for variant, change in _VARIANTS.items():
            with torch.device(device):
                changed, _, of_changed = count(change(model), image)
            if abs((changed + of_changed.total) / 1e9 - published.gmacs) <= _ROUNDED:
                predicted, as_published = (changed + of_changed.total) / 1e9, changed / 1e9
                reasons = [variant]
                break
        if as_published is None and abs(parameters / published.parameters - 1) > 0.01:
            reasons = [
                f"another network, of {published.parameters} M parameters and not {parameters:.2f}"
            ]
    elif differences.extra.total() > 0.01 * macs:
        reasons.append("norms counted")
    if published.gmacs < 0.5:
        reasons.append("rounding")
    ratio = macs / 1e9 / published.gmacs
    return Comparison(
        model=published.model,
        size=published.size,
        table=published.table,
        published=published.gmacs,
        flops=2 * macs,
        measured=macs / 1e9,
        ratio=ratio,
        attention=attention / 1e9,
        norms_and_pools=differences.extra.total() / 1e9,
        unseen=differences.unseen.total() / 1e9,
        as_published=as_published,
        predicted=predicted,
        reason=", ".join(reasons) if abs(ratio - 1) > WITHIN else "",
    )


def table_of(rows: list[Comparison]) -> Table:
    """The rows for a person."""
    table = Table(
        *("model", "size", "published GMACs", "measured", "ratio", "its tool must say", "reason"),
        title="Multiply-adds in 1e9, FLOPs are twice these",
    )
    for row in rows:
        table.add_row(
            *(row.model, str(row.size), f"{row.published:.2f}", f"{row.measured:.3f}"),
            *(f"{row.ratio:.3f}", f"{row.predicted:.3f}", row.reason),
        )
    return table


def summary_of(rows: list[Comparison]) -> dict[str, Any]:
    """How many agree, and which neither agree nor are explained to the last digit."""
    return {
        "networks": len(rows),
        "within_3_percent": sum(not row.reason for row in rows),
        "explained_to_rounding": sum(row.explained for row in rows),
        "reasons": dict(Counter(row.reason for row in rows if row.reason)),
        "not_explained_to_rounding": [row.model for row in rows if not row.explained],
    }


def write(path: Path, rows: list[Comparison], summary: dict[str, Any]) -> None:
    """The rows as CSV and, beside it, what they were measured with."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Comparison)])
        for row in rows:
            values = asdict(row).values()
            writer.writerow([round(v, 6) if isinstance(v, float) else v for v in values])
    versions = {"timm": importlib.metadata.version("timm")}
    content = {"machine": machine() | versions, "device": "cpu", "summary": summary}
    path.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    published = read_tables(options.tables)
    if not published:
        parser.error(f"--tables: no benchmark-infer-*.csv in {options.tables}")
    if options.all and options.out:
        parser.error("--out is for the networks that really run, so not with --all")
    wanted = [(name, MODELS[name]) for name in options.models]
    if options.all:
        # encoders have no logits; of a name that this timm lacks nothing can be said
        wanted = [key for key in published if timm.is_model(key[0]) and "_enc" not in key[0]]
    device = "meta" if options.all else "cpu"
    rows = [compare(published[key], device) for key in wanted if key in published]
    summary = summary_of(rows)
    console = Console(width=140)
    console.print(table_of([row for row in rows if row.reason] if options.all else rows))
    console.print(summary)
    if options.out:
        write(options.out, rows, summary)


if __name__ == "__main__":
    main()
