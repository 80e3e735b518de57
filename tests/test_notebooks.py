"""The notebooks of docs/examples run, and show what is committed."""

import re

import pytest

for package in ("nbclient", "ipykernel"):
    pytest.importorskip(
        package, reason=f"notebooks need {package}, which is among the extras [dev]"
    )
nbformat = pytest.importorskip("nbformat")
notebooks = pytest.importorskip("tests.notebooks")

_NUMBER = re.compile(r"\d[\d,.]*(e[+-]\d+)?")


def shown(notebook):
    """The texts and kinds of all outputs, by cell."""
    cells = []
    for cell in notebook.cells:
        outputs = []
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text": output.get("text")})
            # two drawings of one figure may differ in their bytes
            outputs.append({kind: "" if "png" in kind else text for kind, text in data.items()})
        cells.append((cell.source, outputs))
    return cells


def masked(cells):
    return [
        (source, [{kind: _NUMBER.sub("#", text) for kind, text in one.items()} for one in outputs])
        for source, outputs in cells
    ]


def test_there_are_notebooks_of_modules_and_of_arrays():
    assert {path.stem for path in notebooks.NOTEBOOKS} == {"arrays", "two_modules"}
    assert all(path.stat().st_size < 150_000 for path in notebooks.NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_outputs_are_current(path):
    committed = nbformat.read(path, as_version=4)
    ran = notebooks.executed(path)  # raises where a cell does
    known, again = shown(committed), shown(ran)
    # elsewhere training gives other digits
    if committed.metadata["made_with"] != notebooks.environment():
        known, again = masked(known), masked(again)
    assert again == known, f"python -m tests.notebooks renews the outputs of {path.name}"
    pictures = [kind for _, outputs in again for one in outputs for kind in one if "png" in kind]
    assert 1 <= len(pictures) <= 2
