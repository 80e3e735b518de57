"""The programs of docs/python.md: they run, do what is claimed of them, and are short."""

import re
from pathlib import Path

import pytest
import torch

from lit_cascade import LitCascade, Policy
from lit_cascade.analysis.search import SearchResult

PAGE = (Path(__file__).parents[1] / "docs/python.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The names that the programs define, and the folder that they ran in."""
    names = {"__name__": "__main__"}
    folder = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for program in PROGRAMS:
            exec(program, names)  # noqa: S102
    return names, folder


@pytest.mark.parametrize("number", [1, 3])
def test_a_recipe_has_at_most_eight_lines(number):
    assert len([line for line in PROGRAMS[number].splitlines() if line]) <= 8


def test_two_modules_and_a_loader_become_a_cascade_with_a_promise(run):
    names, folder = run
    cascade, digits = names["cascade"], names["test"]
    assert isinstance(cascade, LitCascade)
    promise = Policy.load(folder / "policy.yaml").evidence["promise"]
    assert promise == names["policy"].evidence["promise"]
    kept = cascade.policy.evidence["promise"]
    assert (kept["target"], kept["limit"], kept["confidence"], kept["n"]) == (
        "accuracy_drop", 0.02, 0.95, 900,
    )  # fmt: skip
    inputs, labels = digits[:]
    with torch.no_grad():
        answers, large = cascade(inputs), names["large"](inputs).argmax(dim=1)
    drop = (large == labels).float().mean() - (answers.prediction == labels).float().mean()
    assert drop <= 0.02
    assert 0.02 < (answers.stage == 1).float().mean() < 0.5


def test_three_arrays_become_a_front(run):
    names, folder = run
    front = names["front"]
    assert isinstance(front, SearchResult)
    assert front.zoo.names == ("linear", "wide", "both")
    assert (folder / "front.csv").read_text().count("\n") == 1 + len(front.cascades.points)
