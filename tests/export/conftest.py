"""Cascades that are exported once for the tests."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from lit_cascade import load_cascade
from lit_cascade.data import DigitsData
from lit_cascade.live import Cascade

# also keeps out what would bring torch along
WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "lit_cascade", "lightning", "transformers", "timm", "onnx"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True, scope="session")
def extra():
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the extra onnx is not installed")


def without_torch(*words):
    """Run a script in an interpreter that can import neither torch nor this package."""
    return subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_TORCH, *map(str, words)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


@pytest.fixture(scope="session")
def digits():
    """The digits pair, its 450 validation samples, and its answers to them."""
    model, data = load_cascade("digits_pair.yaml"), DigitsData()
    data.setup("validate")
    dataset = data.val_dataloader().dataset
    images = torch.stack([dataset[i][0] for i in range(len(dataset))])
    stages = model.networks()
    with torch.inference_mode():
        answers = Cascade(stages, model.policy)(images)
    return stages, model.policy, images, answers


def same(found, answers):
    """Whether predictions and stages are those of a `CascadeOutput`."""
    return np.array_equal(found[0], answers.prediction) and np.array_equal(found[1], answers.stage)
