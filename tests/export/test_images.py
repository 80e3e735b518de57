"""Convolutions, a vision transformer and a residual network of timm as files, with two views."""

import json
import runpy

import numpy as np
import pytest
import torch

from lit_cascade import CascadeError, LitCascade, Stage
from lit_cascade.export import export_cascade
from lit_cascade.export.resizing import PillowResize
from lit_cascade.models import ImagePreprocessing, Timm
from tests.export.conftest import same

N = 24


STEPS = {"crop_pct": 0.9, "interpolation": "bicubic"}


def network(name, seed, size, data_args=None, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Timm(
            name,
            pretrained=False,
            img_size=size,
            num_classes=7,
            data_args=data_args,
            model_args=settings,
        )


@pytest.fixture(scope="module")
def triple():
    """Three tiny networks, of which the first sees smaller images; each answers some samples."""
    stages = {
        "mobilenet": network("mobilenetv3_small_050", 1, 32),
        "vit": network(
            "vit_tiny_patch16_224",
            2,
            48,
            STEPS,
            depth=2,
            embed_dim=48,
            num_heads=2,
            global_pool="avg",
        ),
        "resnet": network("resnet10t", 3, 48, STEPS),
    }
    model = LitCascade({name: Stage(lambda one=one: one) for name, one in stages.items()})
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (N, 3, 60, 50), dtype=torch.uint8, generator=generator)
    inputs = model.collate(list(images))
    scores = []
    with torch.inference_mode():
        for stage in model.networks().values():
            view = inputs[stage.preprocessing.key]
            scores.append(stage(view).softmax(dim=1).amax(dim=1).sort().values)
    model.policy = [float(one[N // 2 : N // 2 + 2].mean()) for one in scores[:2]]
    return model, inputs


def test_three_networks_decide_as_the_cascade(triple, tmp_path):
    import onnxruntime

    model, inputs = triple
    done = export_cascade(
        model.networks(), model.policy, inputs, tmp_path / "out", one_file=True
    )  # fmt: skip
    with torch.inference_mode():
        expected = model.cascade(inputs)
    assert len(set(expected.stage.tolist())) == 3
    first, *others = done.policy["stages"]
    assert first["inputs"] == [{"name": "input", "dtype": "uint8", "shape": [None, 3, 32, 32]}]
    for stage in others:
        assert stage["inputs"] == [
            {"name": "input_1", "dtype": "uint8", "shape": [None, 3, 48, 48]}
        ]
        assert stage["preprocessing"]["kind"] == "image"
    arrays = {
        stage["inputs"][0]["name"]: inputs[network.preprocessing.key].numpy()
        for stage, network in zip(done.policy["stages"], model.networks().values(), strict=True)
    }
    runner = runpy.run_path(str(tmp_path / "out/run_cascade.py"))["Cascade"](tmp_path / "out")
    assert same(runner(arrays), expected)
    whole = onnxruntime.InferenceSession(tmp_path / "out/cascade.onnx")
    assert {one.name for one in whole.get_inputs()} == {"input", "input_1"}
    _, score, prediction, stage = whole.run(None, arrays)
    assert same((prediction, stage), expected)
    np.testing.assert_allclose(score, expected.score, rtol=0, atol=5e-6)


def test_resizing_in_a_file_is_that_of_pillow(triple, tmp_path):
    """Also enlarged, odd, wide and nearly square; by the files that an export writes."""
    from PIL import Image

    model, _ = triple
    generator = np.random.default_rng(8)
    sizes = [(97, 131), (40, 33), (20, 25), (300, 171), (64, 64), (48, 49), (211, 200), (90, 45)]
    images = [
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]
    stages = dict(list(model.networks().items())[1:])  # of one view
    inputs = model.collate(images)
    done = export_cascade(
        stages, 0.9, inputs, tmp_path / "out", embed_preprocessing=True, raw=images
    )
    assert "preprocess-0.onnx" in done.files
    runner = runpy.run_path(str(tmp_path / "out/run_cascade.py"))["Cascade"](tmp_path / "out")
    (found,) = runner.arrays([np.asarray(one) for one in images]).values()
    view = stages["vit"].preprocessing
    assert np.array_equal(found, torch.stack([view(one) for one in images]).numpy())


def test_other_steps_of_images_are_refused():
    other = ImagePreprocessing((3, 32, 32), "lanczos", 0.9, "center")
    with pytest.raises(
        CascadeError, match="'x' takes 32 x 32 by lanczos and center; expected a sq"
    ):
        PillowResize(other, "x")


def test_the_steps_of_images_in_numbers_are_those_that_timm_takes(triple, tmp_path):
    """Pillow, by the numbers of policy.json alone, gives the same bytes."""
    from PIL import Image

    from lit_cascade.export.policy_file import steps_of

    generator = torch.Generator().manual_seed(6)
    pixels = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8, generator=generator).numpy()
    image = Image.fromarray(pixels)
    for stage in triple[0].networks().values():
        steps = json.loads(json.dumps(steps_of(stage.preprocessing, "")))
        height, width = steps["resize"]
        assert steps["crop_mode"] == "center"
        assert height == width
        kind = getattr(Image.Resampling, steps["interpolation"].upper())
        short = min(image.size)
        scaled = [int(height * side / short) for side in image.size]
        resized = np.asarray(image.resize(scaled, kind))
        top = round((resized.shape[0] - steps["height"]) / 2)
        left = round((resized.shape[1] - steps["width"]) / 2)
        cropped = resized[top : top + steps["height"], left : left + steps["width"]]
        expected = stage.preprocessing(image)
        assert np.array_equal(cropped.transpose(2, 0, 1), expected.numpy())
