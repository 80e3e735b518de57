"""What the commands print: tables, one JSON document, or nothing."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import lit_cascade
from lit_cascade.cli import lightning
from lit_cascade.records import Record
from lit_cascade.report.text import Table
from tests.cli.runs import done, within

LONG = (
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
    "vit_base_patch16_clip_224.openai_ft_in12k_in1k",
)
"""Names as long as those of timm, different in the middle only."""


PAIR = ("--records", *(f"{name}.safetensors" for name in LONG))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, records):
    """A folder with the records of a pair, and the same records and config with long names."""
    here = tmp_path_factory.mktemp("terminal")
    (here / "logits.csv").write_text("a,b\n2,1\n0,3\n", encoding="utf-8")
    config = Path(lit_cascade.__file__).parents[1] / "configs" / "digits_pair.yaml"
    text = config.read_text(encoding="utf-8")
    for path, long in zip(records, LONG, strict=True):
        record = Record.load(path)
        record.save(here / path.name)
        costs = {unit: cost * 123_456_789 for unit, cost in record.costs.items()}
        replace(record, name=long, costs=costs).save(here / f"{long}.safetensors")
        text = text.replace(f"{record.name}:", f"{long}:")
    (here / "long.yaml").write_text(text, encoding="utf-8")
    words = ("--max_accuracy_drop", "0.02", "--out", "chosen")
    done(within("select", *PAIR, *words, cwd=here))
    policy = yaml.safe_load((here / "chosen" / "policy.yaml").read_text(encoding="utf-8"))
    del policy["policy"]["evidence"]["thresholds"]  # else check would refuse the same samples
    (here / "policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
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


LIVE = ("--config", "long.yaml")
COMMANDS = [
    ("validate", *PAIR),
    ("select", *PAIR, "--max_accuracy_drop", "0.02"),
    ("check", *PAIR, "--policy", "policy.yaml"),
    ("calibrate", *PAIR),
    ("compare-scores", *PAIR),
    ("search", *PAIR, "--repeats", "2", "--compare"),
    ("import", "--logits", "logits.csv", "--flops", "12e15", "--cost", "usd=1", "--name", LONG[0]),
    ("record", *LIVE),
    ("test", *LIVE),
    ("predict", *LIVE),
    ("benchmark", *LIVE, "--samples", "64", "--repeats", "1", "--singles", "2"),
    ("screen", "--results", "results.csv"),
    ("flops", "resnet18", "alexnet", "--img_size", "64"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_tables_fit_a_terminal_and_keep_names_and_numbers(folder, monkeypatch, words):
    tables, fitted = [], Table.fitted

    def kept(table, *args, **kwargs):
        tables.append(table)
        return fitted(table, *args, **kwargs)

    monkeypatch.setattr(Table, "fitted", kept)
    rows = "".join(f"{name},{80 + k},224,{k + 1}\n" for k, name in enumerate(LONG))
    (folder / "results.csv").write_text(f"model,top1,img_size,infer_gmacs\n{rows}", "utf-8")
    run = within(*words, "--out", f"wide-{words[0]}", cwd=folder)
    assert tables, run.stderr
    for table in tables:
        for width in (80, 100, 200):
            check_table(table, fitted(table, width)[1], width)
        check_table(table, fitted(table, whole=True)[1], 10_000)


def check_table(table, lines, width):
    """Every number that decides is whole, and every name is there and different from others."""
    assert max(map(len, lines)) <= width
    shown = "\n".join(lines)
    for cells in table.rows:
        for column, cell in zip(table.columns[1:], cells[1:], strict=True):
            assert column.detail or all(line in shown for line in cell.split("\n"))
        assert cells[0][:6] in shown


class Terminal(io.StringIO):
    """Output that says it is a terminal."""

    def isatty(self):
        return True


DOING = [
    (("record", "--config", "digits_pair.yaml"), ["Recording small, 1 of 2", "450/450 samples"]),
    (
        ("select", "--config", "digits_pair.yaml", "--max_accuracy_drop", "0.02"),
        ["Recording calibration", "449/449 samples"],
    ),
    (("test", "--config", "digits_pair.yaml"), ["Testing on validation", "450/450 samples"]),
    (("predict", "--config", "digits_pair.yaml"), ["Predicting validation", "450/450 samples"]),
    (
        ("benchmark", "--config", "digits_pair.yaml", "--samples", "64", "--repeats", "1"),
        ["Timing on validation", "768/768 samples"],  # (2 stages, 1 policy), 2 runs, 2 kinds
    ),
    (
        ("fit", "--config", "digits_small.yaml", "--trainer.max_epochs", "1"),
        ["Training, epoch 1 of 1", "896/896 samples", "Evaluating on calibration"],
    ),
]


@pytest.mark.parametrize(("words", "texts"), DOING, ids=[words[0] for words, _ in DOING])
def test_progress_says_what_is_done_and_counts_samples(folder, monkeypatch, words, texts):
    monkeypatch.setattr("tests.cli.runs.io.StringIO", Terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    run = done(within(*words, "--out", f"bar-{words[0]}", cwd=folder))
    for text in texts:
        assert text in run.stderr
    assert "Validation" not in run.stderr
    assert "━" not in run.stdout


def test_a_log_file_gets_lines_without_control_characters(folder, monkeypatch):
    monkeypatch.setattr("lit_cascade.cli.progress._EVERY", 0.0)
    run = done(within("test", "--config", "digits_pair.yaml", "--out", "log", cwd=folder))
    assert "Testing on validation: 450 of 450 samples." in run.stderr.splitlines()
    assert run.stderr.isprintable() or run.stderr.replace("\n", "").isprintable()
    assert "━" not in run.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_of_datasets_are_not_kept_in_logs(monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "")  # put back afterwards
    monkeypatch.delenv("HF_DATASETS_DISABLE_PROGRESS_BARS")
    lightning._quieten()
    assert ("HF_DATASETS_DISABLE_PROGRESS_BARS" in os.environ) is not terminal
