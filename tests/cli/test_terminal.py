"""What the commands print: tables, one JSON document, or nothing."""

from __future__ import annotations

import json

import pytest

from tests.cli.runs import done, within

CIFAR = "checkpoints/cifar10/calibration"
PAIR = (f"{CIFAR}/resnet8-w32-s2.safetensors", f"{CIFAR}/resnet14-w64.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, records):
    """A folder with the records of a pair, and a policy chosen on them."""
    here = tmp_path_factory.mktemp("terminal")
    (here / "logits.csv").write_text("a,b\n2,1\n0,3\n", encoding="utf-8")
    for record in records:
        (here / record.name).write_bytes(record.read_bytes())
    return here


RECORDS = ("--records", "small.safetensors", "large.safetensors")
SUMMARIES = {
    "summary.json": [
        ("validate", *RECORDS),
        ("select", *RECORDS, "--max_accuracy_drop", "0.02"),
        ("calibrate", *RECORDS),
        ("compare-scores", *RECORDS),
        ("search", *RECORDS, "--repeats", "1"),
    ],
    "test.json": [("test", "--config", "digits_pair.yaml")],
    "predict.json": [("predict", "--config", "digits_pair.yaml")],
}
WRITING = [(name, words) for name, all_words in SUMMARIES.items() for words in all_words]


@pytest.mark.parametrize(("name", "words"), WRITING, ids=[words[0] for _, words in WRITING])
def test_json_is_the_summary_and_the_files_and_nothing_else(folder, name, words):
    out = f"json-{words[0]}"
    run = done(within(*words, "--json", "--out", out, cwd=folder))
    printed = json.loads(run.stdout)
    files = printed.pop("files")
    assert printed == json.loads((folder / out / name).read_text(encoding="utf-8"))
    assert {folder / file for file in files} == set((folder / out).iterdir())


def test_json_of_records(folder):
    words = ("--logits", "logits.csv", "--flops", "12", "--name", "a")
    made = json.loads(done(within("import", *words, "--json", "--out", "i", cwd=folder)).stdout)
    (one,) = made["records"]
    assert (one["name"], one["n"], one["accuracy"], one["flops"]) == ("a", 2, None, 12.0)
    assert made["files"] == [one["file"]] == ["i/a.safetensors"]
    assert any("Without --labels" in note for note in made["notes"])
    words = ("record", "--config", "digits_pair.yaml", "--json", "--out", "r")
    for kept in (False, True):
        made = json.loads(done(within(*words, cwd=folder)).stdout)
        assert [one["name"] for one in made["records"]] == ["small", "large"]
        assert [one["kept"] for one in made["records"]] == [kept, kept]
        assert made["failed"] == {}


def test_json_of_a_training(folder):
    words = ("fit", "--config", "digits_small.yaml", "--trainer.max_epochs", "1", "--out", "f")
    card = json.loads(done(within(*words, "--json", cwd=folder)).stdout)
    assert set(card["accuracy"]) == {"calibration", "validation"}
    assert card["parameters"] > 0
    assert card["files"] == ["f/small.safetensors", "f/small.md"]


@pytest.mark.parametrize("words", [words for _, words in WRITING], ids=lambda words: words[0])
def test_quiet_prints_nothing_and_writes_the_files(folder, words):
    out = f"quiet-{words[0]}"
    run = done(within(*words, "--quiet", "--out", out, cwd=folder))
    assert (run.stdout, run.stderr) == ("", "")
    assert any((folder / out).iterdir())


def test_quiet_reports_errors(folder):
    run = within("select", *RECORDS, "--max_accuracy_drop", "0.0001", "--quiet", cwd=folder)
    assert run.returncode == 1
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith("lit-cascade select: error: no policy")


def test_quiet_and_json_print_the_summary_alone(folder):
    words = ("record", "--config", "digits_pair.yaml", "--quiet", "--json", "--out", "qj")
    run = done(within(*words, cwd=folder))
    assert run.stderr == ""
    assert len(json.loads(run.stdout)["records"]) == 2
