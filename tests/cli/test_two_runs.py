"""Two runs that write into one folder: the second is refused before its work."""

import pytest

from tests.cli.runs import done, within
from tests.utilities.test_locks import holder

PAIR = ["--config", "digits_pair.yaml"]
COMMANDS = [
    (["validate"], "curve.csv"),
    (["calibrate"], "calibration.yaml"),
    (["select", "--max_accuracy_drop", "1%"], "policy.yaml"),
    (["compare-scores"], "scores.csv"),
    (["search"], "frontier.csv"),
]


@pytest.mark.parametrize(("command", "name"), COMMANDS, ids=lambda one: one[0])
def test_a_second_run_over_records_is_refused_before_its_work(tmp_path, records, command, name):
    words = [*command, "--records", *records, "--out", "o", "--overwrite"]
    (tmp_path / "o").mkdir()
    with holder(tmp_path / "o", name):
        run = within(*words, cwd=tmp_path)
        assert run.returncode == 2
        assert run.stdout == ""
        assert f"--out: another run is writing '{name}' into 'o'; wait for its end" in run.stderr
        assert [path.name for path in (tmp_path / "o").iterdir()] == [".lock"]


MODELS = [
    (["predict", *PAIR], "predictions.parquet"),
    (["test", *PAIR], "test.json"),
    (["record", *PAIR], "large.safetensors"),
    (["fit", "--config", "digits_small.yaml"], "small.safetensors"),
]


@pytest.mark.parametrize(("command", "name"), MODELS, ids=lambda one: one[0])
def test_a_second_run_of_models_is_refused_before_its_work(tmp_path, command, name):
    (tmp_path / "o").mkdir()
    with holder(tmp_path / "o", name):
        run = within(*command, "--out", "o", cwd=tmp_path)
        assert run.returncode == 2
        assert f"--out: another run is writing '{name}' into 'o'" in run.stderr
        assert [path.name for path in (tmp_path / "o").iterdir()] == [".lock"]


def test_models_are_recorded_side_by_side_into_one_folder(tmp_path):
    (tmp_path / "o").mkdir()
    with holder(tmp_path / "o", "large.safetensors"):
        done(within("record", *PAIR, "--only", "small", "--out", "o", cwd=tmp_path))
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["small.safetensors"]


def test_results_lie_in_their_folder_without_a_lock(tmp_path, records):
    words = ["validate", "--records", *records]
    for number in (1, 2):
        done(within(*words, cwd=tmp_path))
        folder = tmp_path / "runs" / f"validate-{number}"
        assert sorted(path.name for path in folder.iterdir()) == [
            "curve.csv",
            "curve.png",
            "summary.json",
        ]
    run = within("validate", "--records", records[0], records[0], "--out", "new/one", cwd=tmp_path)
    assert run.returncode == 2
    assert not (tmp_path / "new").exists(), "nothing was written"
