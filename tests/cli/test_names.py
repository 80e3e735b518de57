"""Names of users where they are shown: never markup, never codes for the terminal, never run."""

import csv
import json
import re
from unittest import mock

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from lit_cascade.records import Record
from tests.cli.runs import done, within

SMALL, LARGE = "[bold]x[/bold][/]", "=a$b$c[red]"
EVIL = "\x1b]0;title\x07\x9b31m\u202e"


@pytest.fixture
def two(tmp_path):
    """Two records with names that are markup, formulas and mathematics."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (300,))
    for name, file, skill, flops in ((SMALL, "small", 2, 100.0), (LARGE, "large", 4, 1000.0)):
        logits = torch.randn(300, 3) + skill * torch.nn.functional.one_hot(labels, 3)
        Record.from_arrays(
            name, logits, labels, flops=flops, classes=["=1+1", "[red]cat[/red]", "d$o$g"],
            data={"name": f"data$1$ {EVIL}", "split": "[/]", "left_out": [[EVIL, f"{EVIL}\n: no"]]},
        ).save(tmp_path / f"{file}.safetensors")  # fmt: skip
    return tmp_path


@pytest.fixture
def pictures():
    """Texts of all pictures that are drawn."""
    texts, save = [], Figure.savefig

    def noting(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        texts.extend(one for one in figure.findobj(Text) if one.get_text())

    with mock.patch.object(Figure, "savefig", noting):
        yield texts


COMMANDS = [
    ["validate"],
    ["select", "--max_accuracy_drop", "0.2"],
    ["calibrate"],
    ["compare-scores"],
    ["search"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_names_are_shown_as_they_are(two, pictures, command):
    records = ["--records", "small.safetensors", "large.safetensors"]
    run = done(within(*command, *records, "--out", "run[v2]", cwd=two))
    shown = " ".join(run.stdout.split())
    assert "Wrote run[v2]/" in shown
    assert SMALL in shown
    assert LARGE in shown
    assert r"\x1b]0;title\x07\x9b31m\u202e" in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", run.stdout + run.stderr)
    drawn = [text for text in pictures if "$" in text.get_text()]
    assert any(LARGE in text.get_text().replace(r"\$", "$") for text in drawn)
    for text in drawn:
        _, mathematics = text._preprocess_math(text.get_text())
        assert not mathematics or re.fullmatch(r"\$\\mathdefault{.*}\$", text.get_text())
    again = within(*command, *records, "--out", "run[v2]", "--overwrite", "--json", cwd=two)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", again.stdout)
    assert all(path.startswith("run[v2]/") for path in json.loads(again.stdout)["files"])


def test_a_spreadsheet_runs_no_name(two):
    done(within("search", "--records", ".", "--out", "out", cwd=two))
    with (two / "out" / "frontier.csv").open(newline="") as file:
        stages = {part for row in csv.DictReader(file) for part in row["stages"].split(";")}
    assert stages == {SMALL, f"'{LARGE}"}


def test_ids_are_read_from_a_csv_file_as_they_were_before_it_was_written(tmp_path):
    (tmp_path / "ids.csv").write_text("id,logit\n'=1+1,0\n''-x,1\nplain,2\n")
    (tmp_path / "labels.txt").write_text("0\n1\n0\n")
    (tmp_path / "logits.csv").write_text("a,b\n1,2\n2,1\n3,1\n")
    words = ["--name", "net", "--logits", "logits.csv", "--labels", "labels.txt", "--flops", 1]
    done(within("import", *words, "--ids", "ids.csv:id", "--out", "out", cwd=tmp_path))
    ids = Record.load(tmp_path / "out" / "net.safetensors").ids
    assert ids == ["=1+1", "'-x", "plain"]


def test_messages_hold_no_codes_for_the_terminal(tmp_path):
    for words in (["validate", "--records", f"{EVIL}.safetensors"], [f"val{EVIL}"]):
        run = within(*words, cwd=tmp_path)
        assert run.returncode == 2
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", run.stderr), run.stderr


LONG = "y" * 300
TOO_LONG = [
    ["validate", "--records", LONG, LONG],
    ["validate", "--records", "a", "b", "--out", LONG],
    ["validate", "--config", LONG],
    ["validate", "--config", "digits_pair.yaml", "--out", LONG],
    ["validate", "--config", "digits_pair.yaml", "--model.stages.small.checkpoint", LONG],
    ["check", "--policy", LONG, "--records", "a", "b"],
    ["search", "--records", LONG],
    ["import", "--name", "y" * 251, "--logits", "a.npy", "--flops", "1"],
    ["import", "--name", "net", "--logits", LONG, "--flops", "1"],
    ["fit", "--config", "digits_small.yaml", "--model.name", "y" * 251],
]


@pytest.mark.parametrize("words", TOO_LONG, ids=" ".join)
def test_a_name_that_is_too_long_is_one_message_before_any_work(tmp_path, words):
    run = within(*words, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    assert run.stderr.count("\n") == 1
    assert re.search("'y{18,20}.*255", run.stderr) or "there is no file" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_aliases_of_files_that_an_option_names_are_counted(tmp_path):
    (tmp_path / "model.yaml").write_text("stages: &s\n  small: *s\n")
    words = ["validate", "--config", "digits_pair.yaml", "--model", "model.yaml"]
    run = within(*words, cwd=tmp_path)
    assert run.returncode == 2
    assert "cannot be read: an alias refers to what it is part of, in line 1." in run.stderr


def test_policies_that_the_commands_write_are_taken_by_the_others(two):
    records = ["--records", "small.safetensors", "large.safetensors", "--allow_overlap"]
    done(within("calibrate", *records, "--learn_score", "--share", "0.5", "--out", "c", cwd=two))
    done(within("select", *records, "--max_accuracy_drop", "0.2", "--out", "s", cwd=two))
    done(within("search", *records, "--out", "f", cwd=two))
    made = ["c/calibration.yaml", "s/policy.yaml", "f/cascade-1.yaml"]
    for command in (["select", "--max_accuracy_drop", "0.2"], ["validate"], ["calibrate"]):
        for policy in made:
            run = within(*command, *records, "--policy", policy, "--quiet", cwd=two)
            assert run.returncode == 0, (command, policy, run.stderr)
