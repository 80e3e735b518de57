"""Exports that fail: one message, and nothing left."""

import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_cascade import CascadeError, UsageError
from lit_cascade.export import export_cascade, exporting, programs, verifying
from tests.cli.runs import within

INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))


class Branch(nn.Linear):
    """Another path for batches with large values."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Count(nn.Linear):
    """Leaves out what is negative, as many as there are."""

    def forward(self, x):
        return super().forward(x) + x[x > 0].sum() + torch.zeros(len(x[x > 0].nonzero()))[:1]


class Unknown(nn.Linear):
    """An operator that ONNX has no equivalent of."""

    def forward(self, x):
        return torch.linalg.eigvals(super().forward(x)[:, :, None] * torch.eye(3)).real


class Own(nn.Linear):
    """A constant batch size."""

    def forward(self, x):
        return super().forward(x.reshape(2 if len(x) < 3 else len(x), 4))


def refused(stages, folder, error=CascadeError, policy=0.5, **options):
    """The message of an export, which leaves nothing."""
    with pytest.raises(error) as caught:
        export_cascade(stages, policy, INPUTS, folder, **options)
    assert not folder.exists()
    message = str(caught.value)
    assert message.count("\n") < 3
    assert len(message) < 600
    return message


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Branch, "stage 'large' cannot be traced by torch.export: shapes or branches in it depend"),
        (Count, "stage 'large' cannot be traced by torch.export: shapes or branches in it depend"),
        (Unknown, "stage 'large' cannot be written as ONNX: "),
        (Own, "stage 'large' cannot be traced by torch.export: "),
    ],
)
def test_a_stage_that_cannot_be_exported(kind, message, tmp_path, capfd):
    stages = {"small": nn.Linear(4, 3), "large": kind(4, 3)}
    said = refused(stages, tmp_path / "out")
    assert said.startswith(message), said
    assert capfd.readouterr() == ("", "")


def test_other_classes(tmp_path):
    stages = [nn.Linear(4, 3), nn.Linear(4, 3)]
    said = refused(stages, tmp_path / "out", UsageError, classes=["cat", "dog"])
    assert said == "classes: expected 3 names, one per logit, got 2."
    stages[0].class_names = ("cat", "dog", "owl")
    said = refused(stages, tmp_path / "out", UsageError, classes=["cat", "owl", "dog"])
    assert "those of 'stage0' are cat, dog, owl; those of 'classes' are cat, owl, dog" in said
    said = refused([nn.Linear(4, 3), nn.Linear(4, 2)], tmp_path / "out")
    assert "stage 'stage0' has 3, 'stage1' has 2" in said


def test_a_policy_without_thresholds(tmp_path):
    (tmp_path / "pair.yaml").write_text(
        "model:\n  stages:\n"
        + "".join(
            f"    {name}:\n      network:\n        class_path: tests.toys.Net\n"
            for name in ("small", "large")
        )
        + "data: {class_path: tests.toys.SharedPoints}\n"
    )
    run = within("export", "--config", "pair.yaml", "--out", "out", cwd=tmp_path)
    assert run.returncode == 2
    assert "policy.thresholds: running a cascade needs a threshold for small" in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("number", "kind", "where"),
    [
        (errno.ENOSPC, CascadeError, "stage"),
        (errno.ENOSPC, CascadeError, "policy"),
        (errno.EACCES, UsageError, "policy"),
    ],
)
def test_a_full_disk(number, kind, where, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(number, "No space left on device")

    if where == "stage":
        monkeypatch.setattr(exporting, "write_onnx", fail)
    else:
        monkeypatch.setattr(Path, "write_text", fail)
    stages = [nn.Linear(4, 3), nn.Linear(4, 3)]
    said = refused(stages, tmp_path / "out", kind)
    assert said == f"cannot write '{tmp_path / 'out'}': No space left on device."


def test_files_that_decide_otherwise(tmp_path, monkeypatch):
    """A runner that answers something else is found, and nothing is left."""
    wrong = tmp_path / "run_cascade.py"
    text = verifying.RUNNER.read_text()
    assert text.count("s >= np.float32") == 1
    wrong.write_text(text.replace("s >= np.float32", "s > 0.1 + np.float32"))
    for module in (exporting, verifying):
        monkeypatch.setattr(module, "RUNNER", wrong)
    said = refused([nn.Linear(4, 3), nn.Linear(4, 3)], tmp_path / "out")
    assert said.startswith("verify: files of the stages: ")
    assert "samples decided otherwise, 1 at a time" in said
    assert said.endswith("Nothing was written.")


def test_weights_beyond_one_file_lie_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_LARGEST", 0)
    stages = [nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 2000), nn.Linear(2000, 3))]
    done = export_cascade(stages, 0.5, INPUTS, tmp_path / "out", one_file=True)
    assert "stage-1.onnx.data" in done.files
    assert "stage-1.onnx.data" in done.policy["sha256"]
    monkeypatch.setattr("lit_cascade.export.whole._LARGEST", 1000)
    said = refused(stages, tmp_path / "other", one_file=True)
    assert said.startswith("one_file: an ONNX file has at most 2 GB, and the stages have 0.0 GB")


def test_an_older_export_stays_after_a_failure(tmp_path):
    stages = [nn.Linear(4, 3), nn.Linear(4, 3)]
    export_cascade(stages, 0.5, INPUTS, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(CascadeError, match="cannot be traced"):
        export_cascade([stages[0], Branch(4, 3)], 0.5, INPUTS, tmp_path / "out", overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
