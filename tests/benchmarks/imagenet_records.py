"""The bundled records of ImageNet models, from the predictions that were published.

python -m tests.benchmarks.imagenet_records [--predictions FILE] [--out FOLDER]

FILE is a Parquet table with a row per image, in the order of folders of the sorted synsets: a
column `label` and one of answers per model, all of them numbers of classes in that order. The
answers are those in https://github.com/modestyachts/ImageNetV2 (MIT). FOLDER gets a record per
model, and `flops.csv`.

The models are of 2012 to 2018: of Cadene's pretrained-models.pytorch (torchvision, DPN, SENet,
NASNet, ...) and of TF-slim (names that end in `_tf`). Each is counted as the network of timm or
torchvision that has its structure; where strides differ, they are changed first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from lit_cascade import Record, count_flops
from lit_cascade.live import count_parameters
from lit_cascade.models import ArchitectureCost, build_architecture, find_architectures
from lit_cascade.report.text import csv_text
from lit_cascade.utilities.class_names import class_list

ROOT = Path(__file__).parents[2]
PREDICTIONS = ROOT.parent / "shared/data/imagenet_predictions/validation.parquet"
SOURCE = "https://github.com/modestyachts/ImageNetV2"


def as_caffe(network: nn.Module) -> None:
    """Strides of the original ResNet: in the first convolution of a block, which is 1x1."""
    for module in network.modules():
        if getattr(module, "conv3", None) and module.conv2.stride != (1, 1):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)


def as_slim(network: nn.Module) -> None:
    """Strides of TF-slim's ResNet: in the last block of a group, not in the first of the next."""
    layers = (network.get_submodule(f"layer{k}") for k in "1234")
    groups = getattr(network, "stages", None) or list(layers)
    for before, after in pairwise([list(getattr(group, "blocks", group)) for group in groups]):
        before[-1].conv2.stride, after[0].conv2.stride = after[0].conv2.stride, (1, 1)
        before[-1].downsample = nn.MaxPool2d(1, 2)
        for module in after[0].downsample.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)


class Skipped(nn.Module):
    """A cell of NASNet that is left out: the next one gets what this one would have got."""

    def forward(self, x: Tensor, x_prev: Tensor) -> Tensor:
        return x_prev


def as_mobile(network: nn.Module) -> None:
    """NASNet-A (4 @ 1056): two cells less in each of the three groups, fewer channels."""
    small: nn.Module = type(network)(stem_size=32, num_features=1056)
    for cell in (4, 5, 10, 11, 16, 17):
        setattr(small, f"cell_{cell}", Skipped())
    network.__dict__ = small.__dict__


@dataclass(frozen=True)
class Model:
    """How a published model is counted.

    Attributes:
        architecture: of timm or torchvision.
        img_size: at which it was evaluated.
        change: what is changed in the network before it is counted.
        note: how the network that is counted differs from the model.
    """

    architecture: str
    img_size: int = 224
    change: Callable[[nn.Module], None] | None = None
    note: str = ""


_STRIDES = "strides as in TF-slim: in the last block of a group"
_SAME = {
    "torchvision": "alexnet densenet121 densenet161 densenet169 densenet201 resnet18 resnet34 "
    "resnet50 resnet101 resnet152 squeezenet1_0 squeezenet1_1 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 "
    "vgg16_bn vgg19 vgg19_bn",
    "timm": "dpn68 dpn68b dpn92 dpn98 dpn107 dpn131 resnext101_32x4d resnext101_64x4d",
}
MODELS = {
    name: Model(f"{library}:{name}") for library, names in _SAME.items() for name in names.split()
} | {
    "cafferesnet101": Model(
        "torchvision:resnet101", 224, as_caffe, "strides as in Caffe: in the 1x1 convolutions"
    ),
    "fbresnet152": Model("torchvision:resnet152", note="its first convolution has a bias"),
    "inception_resnet_v2_tf": Model("timm:inception_resnet_v2", 299),
    "inception_v1_tf": Model("torchvision:googlenet"),
    "inception_v3": Model("timm:inception_v3", 299),
    "inception_v3_tf": Model("timm:inception_v3", 299),
    "inception_v4_tf": Model("timm:inception_v4", 299),
    "inceptionresnetv2": Model("timm:inception_resnet_v2", 299),
    "inceptionv3": Model("timm:inception_v3", 299),
    "inceptionv4": Model("timm:inception_v4", 299),
    "mobilenet_v1_tf": Model("timm:mobilenetv1_100"),
    "nasnet_large_tf": Model("timm:nasnetalarge", 331),
    "nasnet_mobile_tf": Model("timm:nasnetalarge", 224, as_mobile, "NASNet-A (4 @ 1056)"),
    "nasnetalarge": Model("timm:nasnetalarge", 331),
    "nasnetamobile": Model("timm:nasnetalarge", 224, as_mobile, "NASNet-A (4 @ 1056)"),
    "pnasnet5large": Model("timm:pnasnet5large", 331),
    "pnasnet_large_tf": Model("timm:pnasnet5large", 331),
    **{
        f"resnet_v1_{depth}_tf": Model(f"torchvision:resnet{depth}", 224, as_slim, _STRIDES)
        for depth in (50, 101, 152)
    },
    **{
        f"resnet_v2_{depth}_tf": Model(f"timm:resnetv2_{depth}", 299, as_slim, _STRIDES)
        for depth in (50, 101, 152)
    },
    **{f"se_resnet{depth}": Model(f"timm:legacy_seresnet{depth}") for depth in (50, 101, 152)},
    **{
        f"se_resnext{depth}_32x4d": Model(f"timm:legacy_seresnext{depth}_32x4d")
        for depth in (50, 101)
    },
    "senet154": Model("timm:legacy_senet154"),
    "vgg_16_tf": Model("torchvision:vgg16"),
    "vgg_19_tf": Model("torchvision:vgg19"),
    "xception": Model("timm:legacy_xception", 299),
}
MISSING = {
    "bninception": "neither timm nor torchvision has BN-Inception",
    "inception_v2_tf": "neither timm nor torchvision has Inception-v2",
    "pnasnet_mobile_tf": "timm has PNASNet-5 in its large form alone",
    "polynet": "neither timm nor torchvision has PolyNet",
    **dict.fromkeys(("fv_4k", "fv_16k", "fv_64k"), "Fisher vectors, no network"),
}  # fmt: skip


def cost_of(name: str) -> ArchitectureCost:
    """FLOPs and parameters of a published model."""
    model = MODELS[name]
    [architecture] = find_architectures([model.architecture])
    with torch.device("meta"):
        network, shape = build_architecture(architecture, model.img_size)
        network = getattr(network, "model", network)  # timm's own, without the preprocessing
        if model.change is not None:
            model.change(network)
        flops = count_flops(network.eval(), torch.zeros(1, *shape), name)
    parameters = count_parameters(network)
    return ArchitectureCost(name, flops, parameters, str(model.img_size), model.architecture)


def record_of(cost: ArchitectureCost, answers: Tensor, labels: Tensor) -> Record:
    """The record of a model."""
    note = MODELS[cost.model].note
    return Record.from_arrays(
        cost.model,
        prediction=answers,
        labels=labels,
        classes=class_list("imagenet-1k", "classes"),
        flops=cost.flops,
        parameters=cost.parameters,
        data={"name": "imagenet-1k", "split": "validation", "source": "ImageNet validation"},
        model={"counted_as": cost.source, "img_size": int(cost.img_size), "note": note},
        info={"answers": SOURCE},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--predictions", type=Path, default=PREDICTIONS)
    parser.add_argument("--out", type=Path, default=ROOT / "checkpoints/imagenet")
    options = parser.parse_args()
    table = pq.read_table(options.predictions)
    columns = [name for name in table.column_names if name in {*MODELS, *MISSING}]
    if set(columns) != {*MODELS, *MISSING}:
        parser.error(f"--predictions: no column {min({*MODELS, *MISSING} - set(columns))}")
    arrays = {name: torch.from_numpy(table[name].to_numpy()) for name in ["label", *MODELS]}
    costs = [cost_of(name) for name in sorted(MODELS)]
    (options.out / "validation").mkdir(parents=True, exist_ok=True)
    for cost in costs:
        record = record_of(cost, arrays[cost.model], arrays["label"])
        record.save(options.out / f"validation/{cost.model}.safetensors")
        print(record, flush=True)
    rows = [[*asdict(cost).values(), MODELS[cost.model].note] for cost in costs]
    rows += [[name, None, None, None, None, f"missing: {why}"] for name, why in MISSING.items()]
    header = [*asdict(costs[0]), "note"]
    (options.out / "flops.csv").write_text(csv_text(header, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
