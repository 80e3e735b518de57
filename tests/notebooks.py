"""Runs the notebooks of docs/examples; `python -m tests.notebooks` renews their outputs."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
import sklearn
import torch
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def environment():
    """What the numbers of a notebook depend on, beside its code."""
    return {
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def executed(path, seconds=120):
    """The notebook with new outputs, run in a folder of its own on one thread.

    What libraries write to stderr, and when cells ran, is left out.
    """
    notebook = nbformat.read(path, as_version=4)
    # a cell is a program of a user: it reads no settings of this session but its search path
    settings = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES.parents[1]), *filter(None, sys.path)]),
        "PYTHONWARNINGS": "ignore",
    }
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=seconds,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env={**os.environ, **settings})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            cell.metadata.clear()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "made_with": environment(),
    }
    return notebook


if __name__ == "__main__":
    for path in NOTEBOOKS:
        nbformat.write(executed(path), path)
        print(path)
