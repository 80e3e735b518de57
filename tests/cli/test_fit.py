"""Trainings that are interrupted, as a user sees it."""

import yaml

from lit_cascade.utilities.resume import UnfinishedRun
from tests.cli.runs import done, killed_once, together, within

WORDS = ("fit", "--config", "digits_small.yaml", "--trainer.max_epochs", "12")


def test_fit_is_killed_and_goes_on(tmp_path):
    """What is finished is kept, and the whole is as if nothing had happened."""
    done(within(*WORDS, "--out", "whole", cwd=tmp_path))
    kept = tmp_path / "killed" / "small.training" / "last.ckpt"
    killed_once(kept.exists, *WORDS, "--out", "killed", cwd=tmp_path)
    assert not (tmp_path / "killed" / "small.safetensors").exists()
    other = within(*WORDS[:-1], "9", "--out", "killed", cwd=tmp_path)
    assert other.returncode == 2
    assert "an interrupted run with another trainer.max_epochs: 12, now 9" in other.stderr
    run = done(within(*WORDS, "--out", "killed", cwd=tmp_path))
    assert " of the 12 epochs." in run.stdout
    assert "An earlier run had trained " in run.stdout
    one, two = (tmp_path / out / "small.safetensors" for out in ("whole", "killed"))
    assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "small.md", "small.safetensors",
    ]  # fmt: skip


def test_a_run_that_was_killed_at_its_very_end_is_finished(tmp_path, monkeypatch):
    real, calls = UnfinishedRun.remove, []

    def killed(self):
        calls.append(self)
        if len(calls) == 2:  # the first makes room for the training
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr("lit_cascade.utilities.resume.UnfinishedRun.remove", killed)
    assert within(*WORDS, "--out", "o", cwd=tmp_path).returncode == 130
    first = (tmp_path / "o" / "small.safetensors").read_bytes()
    monkeypatch.undo()
    run = done(within(*WORDS, "--out", "o", cwd=tmp_path))
    assert "An earlier run had trained 12 of the 12 epochs." in run.stdout
    assert (tmp_path / "o" / "small.safetensors").read_bytes() == first
    again = within(*WORDS, "--out", "o", cwd=tmp_path)
    assert again.returncode == 2
    assert "already holds small.safetensors" in again.stderr
    run = done(within(*WORDS, "--out", "o", "--overwrite", cwd=tmp_path))
    assert "An earlier run" not in run.stdout


def test_two_processes_go_on_as_two(tmp_path, monkeypatch):
    """Each with its own random numbers; the number of processes decides what is trained."""
    words = [*WORDS[:-1], "4"]
    ended = [*words, "--trainer.callbacks+", "tests.toys.EndsAfterTwoEpochs"]
    whole, part, rest = ([*one, "--out", out] for one, out in (
        (words, "whole"), (ended, "part"), (words, "part"),
    ))  # fmt: skip
    assert together(2, part, cwd=tmp_path).returncode != 0
    assert (tmp_path / "part" / "small.training" / "last.ckpt").exists()
    run = within(*rest, cwd=tmp_path)
    assert run.returncode == 2
    assert "another processes: 2, now 1" in run.stderr
    run = done(together(2, whole, rest, cwd=tmp_path))
    assert "An earlier run had trained 2 of the 4 epochs." in run.stdout
    one, two = (tmp_path / out / "small.safetensors" for out in ("whole", "part"))
    assert one.read_bytes() == two.read_bytes()


def test_fewer_workers_go_on_with_a_training_and_its_folder_is_told(tmp_path):
    """Of a training without augmentation they change nothing."""
    points = {"class_path": "tests.toys.Points"}
    data = {"train": points, "calibration": points, "batch_size": 8, "num_workers": 1}
    config = {
        "model": {"network": {"class_path": "tests.toys.Net"}, "name": "toy"},
        "data": {"class_path": "lit_cascade.data.Datasets", "init_args": data},
        "trainer": {"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    words = ("fit", "--config", "fit.yaml")
    stops = ("--trainer.callbacks+", "tests.toys.StopsAfterTwoEpochs")
    run = within(*words, *stops, cwd=tmp_path)
    assert run.returncode == 130
    assert "the same command with --out runs/fit-1 resumes" in run.stderr
    fewer = ("--data.init_args.num_workers", "0", "--out", "runs/fit-1")
    run = done(within(*words, *fewer, cwd=tmp_path))
    assert "An earlier run had trained 2 of the 3 epochs." in run.stdout
