"""Stages as programs of torch.export, and compiled by AOTInductor."""

import runpy
import shutil

import pytest
from torch import nn

from lit_cascade import UsageError
from lit_cascade.export import export_cascade
from tests.export.conftest import same
from tests.export.test_failures import INPUTS


def test_programs_of_torch_decide_as_the_cascade(digits, tmp_path):
    stages, policy, images, answers = digits
    done = export_cascade(stages, policy, images, tmp_path / "out", to="torch")
    assert {"stage-0.pt2", "stage-1.pt2", "policy.json"} <= set(done.files)
    assert done.policy["to"] == "torch"
    assert done.verification["deferred"]["policy"] == int((answers.stage > 0).sum())
    runner = runpy.run_path(str(tmp_path / "out/run_cascade.py"))["Cascade"](tmp_path / "out")
    assert same(runner({"input": images.numpy()}), answers)
    for path in (tmp_path / "out").glob("*.pt2"):
        assert b"/lit_cascade/" not in path.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_compiled_programs_decide_as_the_cascade(tmp_path):
    stages = [nn.Linear(4, 3), nn.Linear(4, 3)]
    done = export_cascade(stages, 0.5, INPUTS, tmp_path / "out", to="torch", aot_inductor=True)
    assert {"stage-0.aot.pt2", "stage-1.aot.pt2"} <= set(done.files)
    assert done.verification["equal_decisions"]


def test_options_that_do_not_go_together(tmp_path):
    stages = [nn.Linear(4, 3), nn.Linear(4, 3)]
    for options in ({"to": "torch", "one_file": True}, {"aot_inductor": True}, {"to": "tf"}):
        with pytest.raises(UsageError, match=r"^(one_file|aot_inductor|to): "):
            export_cascade(stages, 0.5, INPUTS, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []
