"""The configs for ImageNet and its relatives, on a handful of images and random weights."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from timm.data import ImageNetInfo
from timm.models import save_for_hf

from lit_cascade import Record
from lit_cascade.cli import main
from lit_cascade.models import Timm
from lit_cascade.utilities.class_names import class_list
from tests.images import image_folder

ROOT = Path(__file__).parents[2]
SYNSETS = ImageNetInfo("imagenet-1k").label_names()
SMALL, LARGE = "mobilenetv3_small_050.lamb_in1k", "resnet18.a1_in1k"
PAIR = [
    f"--model.stages.{stage}.network.init_args.{option}"
    for stage, name in (("small", SMALL), ("large", LARGE))
    for option in (f"model={name}", "pretrained=false", "use_test_size=false")
]
FAST = ["--data.init_args.num_workers=0", "--trainer.accelerator=cpu"]


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def lit_cascade(*words, code=0):
        assert main([*words, *FAST]) == code, capfd.readouterr().err
        return capfd.readouterr()

    return lit_cascade


@pytest.mark.parametrize(
    "config",
    ["imagenet_pair", "imagenet_triple", "imagenet_zoo", "imagenet_lite", "imagenet_lite_zoo"],
)
def test_bundled_configs_name_published_models_of_the_1000_classes(config):
    model = yaml.safe_load((ROOT / f"configs/{config}.yaml").read_text())["model"]
    stages = model.get("stages", {}).values()
    names = [stage["network"]["init_args"]["model"] for stage in stages]
    for name in names or model["timm"]["models"]:
        assert timm.models.is_model_pretrained(name)
        assert timm.get_pretrained_cfg(name).num_classes == 1000


def test_the_reasons_for_the_pair_are_those_of_the_screening():
    listed = (ROOT / "docs/results/screen/screen.csv").read_text().splitlines()[1:]
    rows = {row.split(",")[0]: row.split(",") for row in listed}
    for config in ("imagenet_pair", "imagenet_triple"):
        text = (ROOT / f"configs/{config}.yaml").read_text()
        stages = yaml.safe_load(text)["model"]["stages"]
        for stage in stages.values():
            _, size, accuracy, flops, _, below = rows[stage["network"]["init_args"]["model"]]
            assert float(below) == 0
            assert f"{100 * float(accuracy):.2f}" in text
            assert re.search(rf"\b{float(flops) / 1e9:.2f}".rstrip("0"), text)
            assert int(size) > 0


# set of images, names of their folders, configs, classes
SETS = [
    ("imagenet-1k", SYNSETS, [], SYNSETS),
    ("imagenetv2-matched-frequency-format-val", [str(i) for i in range(1000)], ["v2"], SYNSETS),
    ("imagenet-a", class_list("imagenet-a", ""), ["a"], class_list("imagenet-a", "")),
    ("imagenet-r", class_list("imagenet-r", ""), ["r"], class_list("imagenet-r", "")),
    ("sketch", SYNSETS, ["sketch"], SYNSETS),
]


@pytest.mark.parametrize(("source", "folders", "overlays", "classes"), SETS)
def test_a_set_is_scored_as_its_authors_have_it(run, source, folders, overlays, classes):
    image_folder(source, 12, classes=list(folders), spread=97)
    words = [word for name in overlays for word in ("--config", f"imagenet/{name}.yaml")]
    if not overlays:
        words = ["--data.init_args.source", source]
    run("validate", "--config", "imagenet_pair.yaml", *words, *PAIR, "--out", "o", "--save_records")
    for name, model in (("small", SMALL), ("large", LARGE)):
        record = Record.load(f"o/{name}.safetensors")
        assert record.classes == tuple(classes)
        for path, label in zip(record.ids, record.labels.tolist(), strict=True):
            assert folders[label] == path.split("/")[0]
        assert record.model["timm"] == model
        # whether an answer is right does not depend on classes that cannot be answered
        if len(classes) == 200:
            assert record.model["known_classes"] == 1000
    notes = json.loads(Path("o/summary.json").read_text())["notes"]
    assert any(f"{len(classes) - 12:,} of the {len(classes):,} classes" in note for note in notes)


def test_real_labels_come_from_the_names_of_the_files(run):
    numbers = (1, 2, 3, 5, 8, 13, 21, 34)
    folder = Path("val/n01440764")
    folder.mkdir(parents=True)
    for number in numbers:
        image = Image.new("RGB", (64, 48), (number * 7 % 256, 90, 30))
        image.save(folder / f"ILSVRC2012_val_{number:08d}.JPEG")
    listed = json.loads(
        (Path(timm.__file__).parent / "data/_info/imagenet_real_labels.json").read_text()
    )
    unlabelled = [number for number in numbers if not listed[number - 1]]
    run(
        "validate", "--config", "imagenet_pair.yaml", "--config", "imagenet/real.yaml", *PAIR,
        "--data.init_args.source", "val",
        "--out", "o", "--save_records",
    )  # fmt: skip
    record = Record.load("o/small.safetensors")
    read = [int(re.search(r"val_(\d{8})", name)[1]) for name in record.ids]
    assert read == [number for number in numbers if number not in unlabelled]
    for number, labels in zip(read, record.labels.tolist(), strict=True):
        assert sorted(label for label in labels if label >= 0) == sorted(listed[number - 1])
    right = [
        answer in listed[number - 1]
        for number, answer in zip(read, record.logits.argmax(dim=1).tolist(), strict=True)
    ]
    summary = json.loads(Path("o/summary.json").read_text())
    assert summary["stages"][0]["accuracy"] == sum(right) / len(right)
    assert len(record.data.get("left_out", [])) == len(unlabelled)


def zoo(models, **options):
    config = {
        "model": {"timm": {"models": models, **options}},
        "data": {
            "class_path": "lit_cascade.data.ImageData",
            "init_args": {"source": "images", "classes": "imagenet-1k", "batch_size": 5},
        },
    }
    Path("zoo.yaml").write_text(yaml.safe_dump(config))
    return ["record", "--config", "zoo.yaml", "--out", "records"]


def test_a_zoo_of_names_goes_on_past_models_that_fail(run):
    image_folder("images", 6)
    words = zoo([SMALL, "local-dir:gone", "mobilenetv3_small_075.lamb_in1k"], pretrained=False)
    said = run(*words, code=1)
    assert re.search(r"1 of 3 models was not recorded:\n +gone: .*cannot be loaded", said.err)
    assert "[3/3] mobilenetv3_small_075.lamb_in1k" in said.err
    names = sorted(path.stem for path in Path("records").iterdir())
    assert names == [SMALL, "mobilenetv3_small_075.lamb_in1k"]
    assert all(name in said.out for name in names)
    config = Record.load(f"records/{SMALL}.safetensors").model["config"]
    assert config["network"]["init_args"]["model"] == SMALL
    before = {path: path.read_bytes() for path in Path("records").iterdir()}
    said = run(*words, code=1)
    assert "2 of 3 were there already" in said.out
    assert before == {path: path.read_bytes() for path in Path("records").iterdir()}


def test_records_of_published_models_are_kept_without_loading_them(run, monkeypatch):
    image_folder("images", 6)
    made = timm.create_model
    with monkeypatch.context() as patch:  # as if the hub were there
        patch.setattr(timm, "create_model", lambda name, pretrained, **more: made(name, **more))
        run(*zoo([SMALL]))
    said = run(*zoo([SMALL]))
    assert "1 of 1 were there already" in said.out
    said = run(*zoo([SMALL], use_test_size=False), code=2)  # other settings are another record
    assert "use_test_size" in said.err


def test_what_screen_finds_is_what_record_takes(run):
    image_folder("images", 6)
    words = zoo(["resnet18.a1_in1k"], pretrained=False)
    Path("models.yaml").write_text(yaml.safe_dump({"model": {"timm": {"models": [SMALL]}}}))
    run(*words, "--config", "models.yaml")
    assert [path.stem for path in Path("records").iterdir()] == [SMALL]


def tiny(name):
    """A folder of timm with a random model for images of 32x32, and the model itself."""
    folder = Path(name).absolute()
    config = {"pretrained_cfg": {"input_size": (3, 32, 32)}}
    save_for_hf(timm.create_model(name), str(folder), config, safe_serialization=True)
    return Timm(f"local-dir:{folder}").eval()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_imagenet_records_and_searches_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("altair")
    program = Path(sys.executable).with_name("lit-cascade")
    if not program.exists():
        pytest.skip("lit-cascade is not installed beside this Python")
    models = {name: tiny(name) for name in ("mobilenetv3_small_050", "resnet18")}
    for number in range(6):  # of the classes that the larger one sees
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), "uint8")
        image, network = Image.fromarray(pixels), models["resnet18"]
        answer = network(network.preprocessing(image)[None]).argmax()
        folder = Path("images", SYNSETS[answer])
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")
    words = [
        "make", "-o", ".venv/installed-report", "imagenet", f"BIN={program.parent}",
        f"DATA={tmp_path / 'images'}", f"OUT={tmp_path / 'out'}", "SEARCH=--holdout 0 --stages 3",
        "RECORD=--trainer.accelerator cpu --data.init_args.num_workers 0",
        "MODELS=" + " ".join(model.name for model in models.values()),
    ]  # fmt: skip
    for kept in (0, 2):
        ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert ran.stderr.count("(kept)") == kept
        summary = json.loads(Path("out/search/summary.json").read_text())
        assert [model["name"] for model in summary["models"]] == list(models)
        assert summary["settings"]["stages"] == 3
        assert "resnet18" in Path("out/search/report.html").read_text()
    listed = subprocess.run(
        [*words[:-1], "-n", "LIMIT=7"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    assert "screen --results docs/results/screen/screen.csv --accuracy 0.80: --at_most 7" in listed
    assert "--config out/screen/models.yaml" in listed.replace(f"{tmp_path}/", "")


def test_wildcards_and_unknown_names(run):
    image_folder("images", 6)
    said = run(*zoo(["mobilenetv3_small_*"], pretrained=False, exclude=["*_100*", "*_075*"]))
    assert "[1/1] mobilenetv3_small_050.lamb_in1k" in said.err
    assert "fits 'nothing*'" in run(*zoo(["nothing*"]), code=2).err
    assert "'mobilenetv3_smal' is unknown" in run(*zoo(["mobilenetv3_smal"]), code=2).err


def test_unreadable_images_are_counted_in_every_summary(run):
    image_folder("images", 9)
    broken = Path("images/n01440764/broken.JPEG")
    broken.write_bytes(b"no image")
    words = [
        "--config", "imagenet_pair.yaml", *PAIR,
        "--data.init_args.source", "images", "--policy.thresholds.small", "0.0012", "--out", "o",
    ]  # fmt: skip
    for command, file in (("validate", "summary.json"), ("test", "test.json")):
        said = run(command, *words, "--overwrite")
        assert "1 sample is left out: n01440764/broken.JPEG: not an image" in said.out
        summary = json.loads(Path("o", file).read_text())
        assert summary["n"] == 9
        assert any("left out" in note for note in summary["notes"])
    said = run("validate", *words, "--overwrite", "--data.init_args.unreadable=stop", code=1)
    assert re.search(r"error: data: n01440764/broken.JPEG: not an image\. To leave out", said.err)
    assert "Traceback" not in said.err


def test_calibration_images_are_held_back_of_the_validation_images(run):
    image_folder("images", 30)
    words = [
        "--config", "imagenet_pair.yaml", *PAIR, "--data.init_args.source", "images",
        "--data.init_args.calibration_size", "12",
    ]  # fmt: skip
    run("calibrate", *words, "--out", "c")
    run("validate", *words, "--config", "c/calibration.yaml", "--out", "o", "--save_records")
    assert len(Record.load("o/small.safetensors")) == 18
    said = run("calibrate", *words[:-2], "--out", "d", code=2)
    assert "calibration" in said.err


def test_a_batch_that_does_not_fit_is_halved_and_that_is_told(run, monkeypatch):
    from lit_cascade.models import Timm

    forward, started = Timm.forward, time.time()

    def crowded(self, images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return forward(self, images)

    image_folder("images", 9)
    run(*zoo([SMALL], pretrained=False), "--dtype", "float32")
    whole = Record.load(f"records/{SMALL}.safetensors")
    monkeypatch.setattr(Timm, "forward", crowded)
    said = run(*zoo([SMALL], pretrained=False)[:-1], "crowded", "--dtype", "float32")
    assert "did not fit into memory; it ran 2 at a time" in said.out
    parts = Record.load(f"crowded/{SMALL}.safetensors")
    assert parts.info["samples_per_forward"] == 2
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-4, atol=1e-4)
    assert time.time() > started


def test_images_to_judge_on_are_not_trained_on(run):
    image_folder("images", 6)
    config = {
        "model": {
            "network": {
                "class_path": "lit_cascade.models.Timm",
                "init_args": {"model": SMALL, "pretrained": False},
            }
        },
        "data": {"class_path": "lit_cascade.data.ImageData", "init_args": {"source": "images"}},
    }
    Path("fit.yaml").write_text(yaml.safe_dump(config))
    said = run("fit", "--config", "fit.yaml", "--out", "o", code=2)
    assert "split of ImageData: 'train' is unknown; known are validation." in said.err
    assert "of a single set validation_size leaves the others to train on" in said.err
