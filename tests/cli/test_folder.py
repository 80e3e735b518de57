"""A folder of images, trained, judged and answered from the terminal."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.cli.runs import done, within

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}


def tiny(stage, size, *, train):
    """Words that replace a published network by a small one with random weights."""
    place = "model.network" if train else f"model.stages.{stage}.network"
    words = {"model": "test_resnet.r160_in1k", "img_size": size, "pretrained": "false"}
    return [f"--{place}.init_args.{name}={value}" for name, value in words.items()]


CPU = ["--trainer.accelerator=cpu", "--data.init_args.num_workers=0"]
EPOCHS = [
    "--trainer.max_epochs=4", "--trainer.enable_progress_bar=false", "--model.learning_rate=0.02",
    "--data.init_args.batch_size=6",
]  # fmt: skip
SMALL = ["fit", "--config", "folder_small.yaml", *tiny("small", 32, train=True)]
LARGE = ["fit", "--config", "folder_large.yaml", *tiny("large", 64, train=True)]
PAIR = [
    "--config", "folder_pair.yaml",
    *tiny("small", 32, train=False), *tiny("large", 64, train=False),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    here = tmp_path_factory.mktemp("place")
    random = np.random.default_rng(0)

    def write(path, colour):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = random.integers(-40, 40, (50, 60, 3))
        Image.fromarray((np.array(colour) + noise).clip(0, 255).astype("uint8")).save(path)

    for name, colour in COLOURS.items():
        for i in range(20):
            write(here / "photos" / name / f"{i:02d}.png", colour)
            write(here / "outer" / "all" / name / f"{i:02d}.png", colour)
        for i in range(4):
            write(here / "new_photos" / "2026" / f"{i}-{name}.png", colour)
    (here / "new_photos" / "broken.jpg").write_bytes(b"no image")
    return here


def test_four_commands(place):
    chosen = ["--max_accuracy_drop", "0.05", "--confidence", "none"]
    small = done(within(*SMALL, *CPU, *EPOCHS, "--out", "stages", cwd=place))
    done(within(*LARGE, *CPU, *EPOCHS, "--out", "stages", cwd=place))
    select = done(within("select", *PAIR, *CPU, *chosen, "--out", "chosen", cwd=place))
    last = ["--policy", "chosen/policy.yaml", "new_photos", "--out", "answers"]
    predict = done(within("predict", *PAIR, *CPU, *last, cwd=place))

    for split in ("calibration", "validation"):
        assert re.search(rf"^ *{split} +12 ", small.stdout, re.MULTILINE)
    assert "Wrote chosen/policy.yaml" in select.stdout
    assert "1 sample could not be read and has no answer: broken.jpg: not an image" in (
        predict.stdout
    )
    found = pq.read_table(place / "answers/predictions.parquet").to_pydict()
    assert found["id"] == sorted(found["id"])
    assert len(found["id"]) == 13
    told = dict(zip(found["id"], found["class"], strict=True))
    assert told.pop("broken.jpg") is None
    assert all(name.endswith(f"-{answer}.png") for name, answer in told.items())
    assert json.loads((place / "answers/predict.json").read_text())["n"] == 12


def test_a_training_with_augmentation_goes_on_as_if_nothing_had_happened(place):
    whole, parts = (place / out / "small.safetensors" for out in ("whole", "parts"))
    words = [*SMALL, *CPU, *EPOCHS, "--out"]
    done(within(*words, "whole", cwd=place))
    stops = ["--trainer.callbacks+", "tests.toys.StopsAfterTwoEpochs"]
    assert within(*words, "parts", *stops, cwd=place).returncode == 130
    run = done(within(*words, "parts", cwd=place))
    assert "An earlier run had trained 2 of the 4 epochs." in run.stdout
    assert parts.read_bytes() == whole.read_bytes()
    plain = [*words, "plain", "--data.init_args.augment", "false"]
    done(within(*plain, cwd=place))
    assert (place / "plain/small.safetensors").read_bytes() != whole.read_bytes()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("photo", "is neither a folder of images by class, nor Parquet, CSV or JSON"),
        ("photo", "Did you mean 'photos' or"),
        ("outer", "training needs two or more classes, got all. Of a folder of images the classes"),
        ("photos/red", "the images in 'photos/red' have no classes: expected one folder per class"),
    ],
)
def test_folders_that_cannot_be_trained_on(place, source, message):
    words = [*SMALL, "--data.init_args.source", source, *CPU, "--out", "none"]
    run = within(*words, cwd=place)
    assert run.returncode == 2
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1
