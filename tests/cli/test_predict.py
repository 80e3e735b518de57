"""Answers to files and texts of one's own, from the command line."""

import json

import pyarrow.csv as pa_csv
import pytest
import yaml
from PIL import Image

from tests.cli.runs import done, together, within
from tests.texts import save_classifier, some_sentences

TIMM = "lit_cascade.models.Timm"


def answers(folder):
    return pa_csv.read_csv(folder / "predictions.csv").to_pydict()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A pair for images and one for texts, and what they are to answer."""
    here = tmp_path_factory.mktemp("place")
    (here / "photos/deep").mkdir(parents=True)
    for i in range(12):
        folder = here / "photos" / ("deep" if i % 2 else "")
        Image.new("RGB", (30 + i, 40), (20 * i, 90, 200 - 15 * i)).save(folder / f"{i:02d}.png")
    (here / "photos" / "broken.jpg").write_bytes(b"no image")
    (here / "photos" / "notes.txt").write_text("")
    texts, _ = some_sentences(9)
    (here / "texts.txt").write_text("\n".join([*texts, ""]))
    for name, kind in (("small", "bert"), ("large", "distilbert")):
        save_classifier(kind, here / name, texts, ("negative", "positive"))

    def pair(path, network, data, **more):
        stages = {
            name: {"network": {"class_path": network, "init_args": arguments}}
            for name, arguments in more.items()
        }
        content = {
            "model": {"stages": stages},
            "data": data,
            "policy": {"thresholds": {"small": 0.5}},
            "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
        }
        (here / path).write_text(yaml.safe_dump(content, sort_keys=False))

    net = {"model": "test_resnet.r160_in1k", "pretrained": False}
    source = {"source": "nowhere", "classes": "imagenet-1k", "batch_size": 4, "num_workers": 0}
    data = {"class_path": "lit_cascade.data.ImageData", "init_args": source}
    pair("images.yaml", TIMM, data, small=net, large=net)
    columns = {"source": "nowhere.csv", "classes": ["positive", "negative"]}
    pair(
        "texts.yaml",
        "lit_cascade.models.TextClassifier",
        {"class_path": "lit_cascade.data.TextData", "init_args": columns},
        small={"model": "small"},
        large={"model": "large"},
    )
    return here


def test_a_folder_of_images(place):
    words = ("predict", "--config", "images.yaml", "--format", "csv")
    run = done(within(*words, "--top", 2, "--out", "o", "photos", cwd=place))
    found = answers(place / "o")
    assert found["id"] == [f"{i:02d}.png" for i in range(0, 12, 2)] + ["broken.jpg"] + [
        f"deep/{i:02d}.png" for i in range(1, 12, 2)
    ]
    assert found["error"] == [""] * 6 + ["not an image"] + [""] * 6
    whole = list(zip(found["class"], found["name"], found["class_2"], found["name_2"], strict=True))
    assert whole[6] == ("", "", "", "")
    assert all(one[0].startswith("n0") and not one[1].startswith("n0") for one in whole if one[0])
    assert "1 sample could not be read and has no answer: broken.jpg: not an image." in run.stdout
    assert "Note: 1 file is no image by its name." in run.stdout
    assert run.stdout.count("large ") == 1, "more than ten: a summary"
    told = json.loads((place / "o/predict.json").read_text())
    assert (told["n"], told["inputs"], told["left_out"]) == (
        12, ["photos"], [["broken.jpg", "not an image"]],
    )  # fmt: skip
    # the same in two processes, and in any place among the options
    run = together(2, ["predict", "photos", *words[1:], "--top", 2, "--out", "two"], cwd=place)
    done(run)
    one, two = ((place / out / "predictions.csv").read_bytes() for out in ("o", "two"))
    assert one == two
    run = done(within(*words, "--out", "few", "photos/02.png", "photos/broken.jpg", cwd=place))
    few = answers(place / "few")
    assert few["id"] == ["photos/02.png", "photos/broken.jpg"]
    assert few["class"][0] == found["class"][1]
    shown = json.loads((place / "few/predict.json").read_text())["answers"]
    assert [(row["id"], row["class"], row["error"]) for row in shown] == [
        ("photos/02.png", few["class"][0], None), ("photos/broken.jpg", None, "not an image"),
    ]  # fmt: skip
    assert "answers" not in told
    for shown in ("photos/02.png", few["name"][0], "large", "unread"):
        assert shown in run.stdout


def test_bundled_weights_answer_an_image(place):
    """Of any size: the network is for 32x32."""
    words = ("predict", "photos/00.png", "--config", "cifar10/pair.yaml", "--trainer.accelerator")
    run = done(within(*words, "cpu", "--top", 10, "--out", "cifar", cwd=place))
    assert "resnet8-w" in run.stdout
    for name in ("airplane", "truck"):
        assert run.stdout.count(name) == 1


def test_lines_of_text(place, monkeypatch):
    words = ("predict", "--config", "texts.yaml", "--format", "csv", "--text")
    run = done(within(*words, "--out", "t", "texts.txt", cwd=place))
    found = answers(place / "t")
    assert found["id"] == list(range(1, 10))
    assert found["text"] == some_sentences(9)[0]
    assert set(found["class"]) <= {"positive", "negative"}
    assert all(name in run.stdout for name in {*found["class"], *found["stage"]})
    run = within(*words, "--out", "u", "photos", cwd=place)
    assert run.returncode == 2
    assert run.stderr.endswith(
        "error: input: 'photos' is a folder; the data of the config are texts: expected files "
        "with one text per line, or a table (Parquet, CSV, JSON).\n"
    )
    assert not (place / "u").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["foto"], 2, "input: there is no file or folder 'foto'."),
        (["photo"], 2, "no file or folder 'photo'. Did you mean 'photos'?"),
        (["photos/deeep/1.png"], 2, "'photos/deeep/1.png'. Did you mean 'photos/deep'?"),
        (["texts.txt"], 2, "input: 'texts.txt' is no image by its name; the data of the config"),
        (["small"], 2, "input: no images in 'small', which holds "),
        (["-"], 2, "input: images are not read from standard input"),
        (["photos", "--split", "test"], 2, "--split: names a split of the config's data"),
        (["photos", "--top", "0"], 2, "top: expected 1 or more classes, got 0"),
        (["photos", "--text"], 2, "text: the samples are no texts"),
        (["photos/broken.jpg"], 1, "no sample could be read, of 1; first photos/broken.jpg"),
    ],
)
def test_inputs_that_do_not_fit(place, words, code, message):
    run = within("predict", "--config", "images.yaml", *words, "--out", "none", cwd=place)
    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert len(run.stderr.splitlines()) == 1
