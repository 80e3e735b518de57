"""Nothing in a file that is read can run: no pickle, no YAML tags, no evaluated text."""

import ast
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lit_cascade import Record
from lit_cascade.lit.predicting import PARTS
from tests.cli.runs import within

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "lit_cascade").rglob("*.py"))
FORBIDDEN = {
    "cPickle", "cloudpickle", "code", "dill", "joblib", "jsonpickle", "marshal", "shelve",
}  # fmt: skip
YAML = {
    "safe_load", "safe_dump", "YAMLError", "MarkedYAMLError", "SafeLoader", "MappingNode",
    "ScalarNode", "dump", "SafeDumper",
}  # fmt: skip
RUNNING = {"eval", "exec", "compile", "__import__"}


def parsed():
    for path in SOURCES:
        yield path.relative_to(ROOT), ast.parse(path.read_text())


def dotted(node):
    """`a.b.c` of an expression; empty if it is something else."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def calls():
    for path, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                yield f"{path}:{node.lineno}", dotted(node.func), given


def test_no_module_that_runs_what_it_reads_is_imported():
    found = {}
    for path, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            found |= {(str(path), name): node.lineno for name in names}
    assert ("lit_cascade/utilities/tensors.py", "pickle") in found  # for its exception alone
    for (path, name), line in found.items():
        assert name.split(".")[0] not in FORBIDDEN, f"{path}:{line}"
        # by their plain names, so that the calls below can be told
        for module in ("pickle", "torch", "numpy", "yaml"):
            loads = name.startswith(f"{module}.") and name.rsplit(".", maxsplit=1)[1] in {
                "load", "loads", "Unpickler", "unsafe_load", "full_load", "load_all",
            }  # fmt: skip
            assert not loads, f"{path}:{line}"


def test_pickle_and_yaml_are_used_for_what_is_harmless():
    seen = set()
    for path, tree in parsed():
        for node in ast.walk(tree):
            name = dotted(node) if isinstance(node, ast.Attribute) else ""
            module, _, rest = name.partition(".")
            if module == "pickle":
                assert rest == "UnpicklingError", f"{path}:{node.lineno}"
            if module == "yaml":
                assert rest in YAML, f"{path}:{node.lineno}"
            seen.add(name)
    assert {"pickle.UnpicklingError", "yaml.safe_load"} <= seen


def test_whatever_loads_is_told_to_run_nothing():
    loads = {"torch": 0, "np": 0}
    for where, name, given in calls():
        if name == "torch.load":
            assert given.get("weights_only") == "True", where
            loads["torch"] += 1
        elif name.endswith((".load", ".fromfile")) and name.split(".")[0] in {"np", "numpy"}:
            assert given.get("allow_pickle") == "False", where
            loads["np"] += 1
        assert name not in RUNNING, where
        assert name not in {"torch.jit.load", "torch.hub.load", "torch.package"}, where
        last = name.rsplit(".", maxsplit=1)[-1]
        assert last not in {"read_pickle", "load_from_checkpoint"}, where
        assert given.get("weights_only", "True") == "True", where
        assert given.get("allow_pickle", "False") == "False", where
        assert given.get("trust_remote_code", "False") == "False", where
        assert given.get("shell", "False") == "False", where
    assert loads["torch"] == 1  # one place for all
    assert loads["np"] >= 2


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, folder):
        self.mark = folder / "exploded"

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def pickled(bomb):
    return pickle.dumps(bomb)


def saved(bomb):
    buffer = io.BytesIO()
    torch.save({"state_dict": {"weight": bomb}, "logits": bomb}, buffer)
    return buffer.getvalue()


def old(bomb):
    buffer = io.BytesIO()
    torch.save({"weight": bomb}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def array(bomb):
    buffer = io.BytesIO()
    np.save(buffer, np.array([bomb, bomb], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def arrays(bomb):
    buffer = io.BytesIO()
    np.savez(buffer, logits=np.array([bomb], dtype=object))
    return buffer.getvalue()


def tagged(bomb):
    touch = f"!!python/object/apply:os.system ['touch {bomb.mark}']"
    return f"policy:\n  thresholds: {touch}\ncosts: {touch}\n".encode()


CONTENTS = {
    "pickle": pickled, "saved": saved, "old": old, "npy": array, "npz": arrays, "yaml": tagged,
}  # fmt: skip


def test_the_bombs_explode_where_they_are_trusted(tmp_path):
    loads = {
        "pickle": lambda path: pickle.loads(path.read_bytes()),  # noqa: S301
        "saved": lambda path: torch.load(path, weights_only=False),
        "old": lambda path: torch.load(path, weights_only=False),
        "npy": lambda path: np.load(path, allow_pickle=True),
        "npz": lambda path: np.load(path, allow_pickle=True)["logits"],
        "yaml": lambda path: yaml.unsafe_load(path.read_text()),
    }
    for kind, load in loads.items():
        bomb = Bomb(tmp_path)
        (tmp_path / kind).write_bytes(CONTENTS[kind](bomb))
        load(tmp_path / kind)
        assert bomb.mark.exists(), kind
        bomb.mark.unlink()


PAIR = ("--config", "digits_pair.yaml", "--trainer.accelerator", "cpu")
FIT = ("fit", "--config", "digits_small.yaml", "--trainer.max_epochs", "1")
IMPORT = ("import", "--name", "a", "--flops", "1", "--logits")
RECORDS = ("--records", "evil.safetensors", "good.safetensors")
OF_ARRAYS = {
    ".npy": ("npy", "npz", "pickle"), ".npz": ("npz", "npy", "pickle"), ".csv": ("pickle",),
    ".parquet": ("pickle",), ".safetensors": ("saved", "pickle"), ".txt": ("pickle",),
    ".pt": ("saved", "old", "pickle"),
}  # fmt: skip
OF_TENSORS = ("saved", "old", "pickle")
PLACES = {
    "validate": (("validate", *RECORDS), OF_TENSORS),
    "select": (("select", *RECORDS), OF_TENSORS),
    "search": (("search", *RECORDS), OF_TENSORS),
    "compare-scores": (("compare-scores", *RECORDS), OF_TENSORS),
    "check's record": (
        ("check", "--policy", "good.yaml", "--records", "evil.safetensors"), OF_TENSORS,
    ),
    "check's policy": (("check", "--policy", "evil.yaml", *RECORDS[:1], "good.safetensors"),
                       ("yaml", "pickle")),
    "config": (("validate", "--config", "digits_pair.yaml", "--config", "evil.yaml"),
               ("yaml", "pickle")),
    "cost": (("validate", *RECORDS[:1], "good.safetensors", "other.safetensors",
              "--cost=s=evil.json"), ("yaml", "pickle")),
    "classes": (("validate", *PAIR, "--model.stages.small.classes", "evil.txt"), ("pickle",)),
    **{
        f"checkpoint {suffix}": (
            ("validate", *PAIR, "--model.stages.small.checkpoint", f"evil{suffix}"), OF_TENSORS,
        )
        for suffix in (".pt", ".ckpt", ".safetensors")
    },
    "fit's checkpoint": ((*FIT, "--model.checkpoint", "evil.pt"), ("saved",)),
    "fit's teacher": ((*FIT, "--model.teacher.record", "evil.safetensors"), ("saved",)),
    **{
        f"import --logits {suffix}": ((*IMPORT, f"evil{suffix}"), kinds)
        for suffix, kinds in OF_ARRAYS.items()
    },
    **{
        f"import {option} {suffix}": ((*IMPORT, "good.npy", option, f"evil{suffix}"), kinds)
        for option in ("--labels", "--ids", "--classes")
        for suffix, kinds in OF_ARRAYS.items()
    },
    "import --cost": ((*IMPORT, "good.npy", "--cost=s=evil.npy"), ("npy", "npz", "pickle")),
}  # fmt: skip


@pytest.fixture
def here(tmp_path):
    logits = torch.eye(3).repeat(2, 1)
    for name in ("good", "other"):
        Record.from_arrays(name, logits, [0, 1, 2] * 2, flops=8.0).save(
            tmp_path / f"{name}.safetensors"
        )
    np.save(tmp_path / "good.npy", logits.numpy())
    (tmp_path / "good.yaml").write_text(yaml.safe_dump({"policy": {"thresholds": [0.5]}}))
    return tmp_path


@pytest.mark.parametrize("place", PLACES)
def test_no_file_that_can_be_named_is_run(here, place):
    bomb, (words, kinds) = Bomb(here), PLACES[place]
    (named,) = {word.rpartition("=")[2] for word in words if "evil" in word}
    for kind in kinds:
        (here / named).write_bytes(CONTENTS[kind](bomb))
        run = within(*words, "--out", "o", cwd=here)
        assert not bomb.mark.exists(), kind
        assert run.returncode in {1, 2}, kind
        told = [line for line in run.stderr.splitlines() if line.strip()]
        assert len(told) == 1, (kind, told)
        assert ": error: " in told[0]
        assert not (here / "o").exists()


@pytest.mark.parametrize("name", ["00000000.parquet", "plan.json"])
def test_no_part_of_an_interrupted_run_is_run(tmp_path, name):
    bomb, parts = Bomb(tmp_path), tmp_path / "o" / PARTS
    words = ("predict", *PAIR, "--out", "o")
    parts.mkdir(parents=True)
    if name != "plan.json":
        from unittest import mock

        with mock.patch(
            "lit_cascade.lit.predicting.PredictionFiles.join", side_effect=KeyboardInterrupt
        ):
            assert within(*words, cwd=tmp_path).returncode == 130
    for kind in ("pickle", "saved", "yaml"):
        (parts / name).write_bytes(CONTENTS[kind](bomb))
        run = within(*words, cwd=tmp_path)
        assert not bomb.mark.exists(), kind
        assert run.returncode in {1, 2}, kind
        told = [line for line in run.stderr.splitlines() if ": error: " in line]
        assert len(told) == 1
        assert "Traceback" not in run.stderr
        assert not (tmp_path / "o" / "predictions.parquet").exists()
