"""docs/mistakes.md: each command is run, and must say what the page shows."""

import os
import re
import shlex
from importlib.util import find_spec

import pytest

from tests.cli.runs import within
from tests.forks import ROOT

PAGE = ROOT / "docs/mistakes.md"
BLOCK = re.compile(r"```console\n(.*?)```\n", re.DOTALL)
WIDEST = 120

NETWORK = """from torch import nn


class Broken(nn.Flatten):
    def forward(self, images):
        raise IndexError("no such pixel")
"""
CONFIG = """
model:
  stages:
    small: {network: {class_path: broken.Broken}}
    large: {network: {class_path: broken.Broken}}
data: {class_path: lit_cascade.data.DigitsData}
"""


def mistakes():
    """(command, what the page says about it) of each block."""
    for block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        for part in block.split("$ lit-cascade ")[1:]:
            command, _, told = part.partition("\n")
            yield command, told


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/curve.csv").write_text("")
    (tmp_path / "broken.py").write_text(NETWORK)
    (tmp_path / "broken.yaml").write_text(CONFIG)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    return tmp_path


def said(command, folder):
    """The message of a command that must fail, with the machine's own paths left out."""
    run = within(*shlex.split(command), cwd=folder)
    assert run.returncode in {1, 2}, run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    start = run.stderr.index("lit-cascade ")
    return run.stderr[start:].replace(f"{ROOT}/", "")


@pytest.mark.filterwarnings("ignore:.*deterministic.*")
@pytest.mark.parametrize(("command", "told"), list(mistakes()))
def test_a_common_mistake_is_told_as_the_page_shows(folder, command, told):
    if "MLFlow" in command and find_spec("mlflow"):
        pytest.skip("mlflow is installed here")
    before = sorted(folder.rglob("*"))
    message = said(command, folder)
    assert message == told
    lines = [-(-len(line) // WIDEST) for line in message.splitlines()]
    assert 1 <= sum(lines) <= 3
    assert [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts] == before


def test_the_page_has_at_least_fifteen_of_them():
    assert len({command for command, _ in mistakes()}) >= 15
