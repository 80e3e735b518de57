"""Several processes give what one gives, and end together when one of them ends."""

import json
import math
import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from lit_cascade.lit.predicting import PARTS
from tests.cli.runs import done, lit_cascade, together, torchrun, within

ROOT = Path(__file__).parents[2]
BOUND = 60
"""Seconds within which a run has ended after one of its processes has."""


def toy(kind, **arguments):
    return {"class_path": f"tests.toys.{kind}", "init_args": arguments}


def stage(kind="Net", **arguments):
    return {"network": toy(kind, **arguments)}


SMALL, LARGE = stage("Steep", width=3, seed=1), stage(width=8, seed=2)


def pair(folder, name, points, threshold=0.6, small=SMALL, **changes):
    """Write the config of two stages, and return the words that name it."""
    config = {
        "model": {"stages": {"small": small, "large": LARGE}},
        "data": {
            "class_path": "lit_cascade.data.Datasets",
            "init_args": {"validation": points, "batch_size": 4, **changes},
        },
        "policy": {"thresholds": {"small": threshold}},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return ("--config", str(folder / f"{name}.yaml"))


def files(folder):
    """The content of everything in a folder, hidden files too."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Commands with the words for them, and the folder where one process has run each."""
    folder = tmp_path_factory.mktemp("alone")
    promise = ("--max_disagreement", "0.9", "--confidence", "0.5")
    # of 21 sorted samples in windows of 8, the first is sure of all and the last of none
    configs = {
        "uneven": pair(folder, "uneven", toy("Sorted", n=21), calibration=toy("Sorted", n=18, first=50)),
        "one": pair(folder, "one", toy("Sorted", n=1)),
        "two": pair(folder, "two", toy("Sorted", n=2)),
        "never": pair(folder, "never", toy("Sorted", n=21), -math.inf),
        "always": pair(folder, "always", toy("Sorted", n=21), math.inf),
    }
    words = {
        "validate": ("--save_records",),
        "record": ("--dtype", "float32"),
        "test": ("--gather", "2"),
        "predict": ("--gather", "2", "--format", "csv"),
        "calibrate": ("--method", "vector"),
        "select": promise,
    }
    used = {
        "uneven": tuple(words),
        "one": ("validate", "record", "test", "predict"),
        "two": ("validate", "record", "test", "predict"),
        "never": ("test", "predict"),
        "always": ("test", "predict"),
    }
    commands = {
        f"{case}-{name}": (name, *configs[case], *words[name])
        for case, names in used.items()
        for name in names
    }
    commands["window-predict"] = ("predict", *configs["uneven"])  # all batches in one window
    commands["window-test"] = ("test", *configs["uneven"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "0")
        for out, command in commands.items():
            done(within(*command, "--out", out, cwd=folder))
    return commands, folder


def stages_of(folder):
    rows = (folder / "predictions.csv").read_text().splitlines()[1:]
    return [row.split(",")[3].strip('"') for row in rows]


def test_the_processes_have_different_work(alone):
    _, folder = alone
    stages = stages_of(folder / "uneven-predict")
    assert set(stages[:8]) == {"small"}
    assert set(stages[16:]) == {"large"}
    assert len(stages) == 21
    assert set(stages_of(folder / "never-predict")) == {"small"}
    assert set(stages_of(folder / "always-predict")) == {"large"}


@pytest.mark.parametrize(
    ("count", "starter"), [(2, "torchrun"), (3, "torchrun"), (2, "srun")], ids=str
)
def test_every_command_writes_the_bytes_of_one_process(alone, tmp_path, count, starter):
    commands, folder = alone
    if starter == "srun":  # one process on each of two machines
        commands = {out: commands[out] for out in ("uneven-record", "uneven-predict")}
    runs = [[*command, "--out", out] for out, command in commands.items()]
    done(together(count, *runs, cwd=tmp_path, SOURCE_DATE_EPOCH=0, SEVERAL_AS=starter))
    for out in commands:
        assert files(folder / out)
        assert files(tmp_path / out) == files(folder / out), out


def test_all_processes_write_into_the_folder_of_the_main_one(alone, tmp_path):
    """Without --out each looks for an unused one, and may see those of the others."""
    commands, folder = alone
    names = ("uneven-validate", "uneven-record", "uneven-predict", "uneven-test")
    runs = [[*commands[name], "--out", f"{name}{{rank}}"] for name in names]
    done(together(3, *runs, cwd=tmp_path, SOURCE_DATE_EPOCH=0))
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}0" for name in names}
    for name in names:
        assert files(tmp_path / f"{name}0") == files(folder / name)


def dying(folder, rank):
    """The words of a pair whose small stage ends a process after three batches of five."""
    small = stage("Dying", rank=rank)
    points = toy("Points", n=40)
    return pair(folder, f"dying{rank}", points, small=small)


def training(folder, rank):
    config = {
        "model": {"name": "net", "network": toy("Dying", rank=rank)},
        "data": {
            "class_path": "lit_cascade.data.Datasets",
            "init_args": {"train": toy("Points", n=40), "batch_size": 4},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False},
    }
    path = folder / f"training{rank}.yaml"
    path.write_text(yaml.safe_dump(config))
    return ("--config", str(path))


def lives(process):
    """Whether a process is there, other than as one that has ended and nobody has asked for."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", process], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(state) and not state.startswith("Z")


def all_ended(folder):
    """Whether all processes that left their numbers have ended, or do so soon."""
    numbers = [path.name for path in folder.iterdir()]
    assert len(numbers) >= 2
    deadline = time.monotonic() + BOUND
    while any(map(lives, numbers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not any(map(lives, numbers))


def test_a_killed_process_ends_every_command_and_leaves_nothing_half_written(tmp_path):
    (tmp_path / "pids").mkdir()
    whole = dying(tmp_path, 0)
    done(within("predict", *whole, "--gather", "1", "--out", "whole", cwd=tmp_path))
    commands = {}
    for rank in (0, 1):
        for name in ("validate", "record", "test", "predict"):
            gather = ("--gather", "1") if name in {"test", "predict"} else ()
            commands[f"{name}{rank}"] = (name, *dying(tmp_path, rank), *gather)
        commands[f"fit{rank}"] = ("fit", *training(tmp_path, rank))
    runs = [[*command, "--out", out] for out, command in commands.items()]
    run = together(2, *runs, cwd=tmp_path, DYING=tmp_path / "pids")
    assert run.returncode != 0
    ended = json.loads(run.stdout.splitlines()[-1])
    for (out, command), (codes, seconds) in zip(commands.items(), ended, strict=True):
        victim = int(out[-1])
        assert codes[victim] == -9, out
        assert codes[1 - victim] == 1, out
        assert seconds < BOUND
        left = files(tmp_path / out)
        if command[0] == "predict":
            assert left.pop(f"{PARTS}/plan.json")
            assert left
            assert all(name.endswith(".parquet") and "/." not in name for name in left)
        else:
            assert not left, out
    assert run.stderr.count("another process of this run has ended") == len(commands)
    assert "Traceback" not in run.stderr
    assert all_ended(tmp_path / "pids")
    for out in ("predict0", "predict1"):
        again = done(within(*commands[out], "--out", out, cwd=tmp_path))
        assert "An earlier run had given" in again.stdout
        one, other = (tmp_path / name / "predictions.parquet" for name in ("whole", out))
        assert one.read_bytes() == other.read_bytes()
        assert not (tmp_path / out / PARTS).exists()


def test_what_fails_in_one_process_is_said_by_it_alone(tmp_path):
    bad = pair(tmp_path, "bad", toy("BadPoint", n=16))
    huge = pair(tmp_path, "huge", toy("Points", n=40), small=stage("BadNet"))
    run = together(2, ["validate", *bad, "--out", "o"], ["test", *huge, "--out", "o"], cwd=tmp_path)
    (read, ran) = json.loads(run.stdout.splitlines()[-1])
    assert set(read[0]) == set(ran[0]) == {1}
    assert max(read[1], ran[1]) < BOUND
    assert run.stderr.count("ValueError: bad point") == 1
    assert "gave NaN or infinite logits" in run.stderr
    assert not (tmp_path / "o").exists()


LIGHTNING = ("--trainer.strategy", "ddp", "--trainer.devices", "2")


def test_a_killed_process_that_lightning_started_ends_the_run(tmp_path):
    (tmp_path / "pids").mkdir()
    start = time.monotonic()
    run = lit_cascade(
        "validate", *dying(tmp_path, 1), *LIGHTNING, "--out", "o",
        cwd=tmp_path, PYTHONPATH=ROOT, DYING=tmp_path / "pids",
    )  # fmt: skip
    print(f"ended after {time.monotonic() - start:.0f} s with {run.returncode}")
    assert run.returncode != 0
    assert time.monotonic() - start < 2 * BOUND
    assert all_ended(tmp_path / "pids")
    assert not (tmp_path / "o").exists()


def test_the_processes_that_lightning_started_end_with_the_main_one(tmp_path):
    """Which would else answer all of their samples before they miss it."""
    (tmp_path / "pids").mkdir()
    words = ("predict", *dying(tmp_path, 0), "--gather", "1", "--out")
    done(within(*words, "whole", cwd=tmp_path))
    start = time.monotonic()
    run = lit_cascade(
        *words, "o", *LIGHTNING, cwd=tmp_path, PYTHONPATH=ROOT, DYING=tmp_path / "pids"
    )
    print(f"ended after {time.monotonic() - start:.0f} s with {run.returncode}")
    assert run.returncode == -9
    assert time.monotonic() - start < 2 * BOUND
    assert all_ended(tmp_path / "pids")
    assert not (tmp_path / "o" / "predictions.parquet").exists()
    done(within(*words, "o", cwd=tmp_path))
    assert files(tmp_path / "o") == files(tmp_path / "whole")


def test_torchrun_ends_all_processes_with_the_first_that_dies(tmp_path):
    (tmp_path / "pids").mkdir()
    start = time.monotonic()
    run = torchrun(
        2, "record", *dying(tmp_path, 0), "--out", "o",
        cwd=tmp_path, PYTHONPATH=ROOT, DYING=tmp_path / "pids", OMP_NUM_THREADS=1,
    )  # fmt: skip
    print(f"ended after {time.monotonic() - start:.0f} s with {run.returncode}")
    assert run.returncode != 0
    assert time.monotonic() - start < 2 * BOUND
    assert all_ended(tmp_path / "pids")
    assert not files(tmp_path / "o")
    done(within("record", *dying(tmp_path, 0), "--out", "o", cwd=tmp_path))
    assert set(files(tmp_path / "o")) == {"small.safetensors", "large.safetensors"}


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_commands_without_a_trainer_refuse_to_be_several(tmp_path, records, monkeypatch, name):
    monkeypatch.setenv(name, "4")
    for words in (["compare-scores"], ["validate"], ["search"]):
        run = within(*words, "--records", *records, "--out", "o", cwd=tmp_path)
        assert run.returncode == 2
        (line,) = run.stderr.splitlines()
        assert f"{words[0]} needs one process here, and this is one of 4 ({name})" in line
        assert "without torchrun, srun" in line
    assert not list(tmp_path.iterdir())


def test_speed_is_measured_by_one_process(tmp_path):
    words = ("benchmark", "--config", "digits_pair.yaml", "--trainer.accelerator", "cpu")
    run = within(*words, "--trainer.devices", "2", "--trainer.strategy", "ddp", cwd=tmp_path)
    assert run.returncode == 2
    assert "trainer.devices: speed is measured by one process, on one device, got 2" in run.stderr
    assert not list(tmp_path.iterdir())


def test_the_main_process_is_one_on_one_machine(monkeypatch):
    from lit_cascade.files import main_process

    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert main_process()
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "0")
            assert main_process()
            patch.setenv(name, "1")
            assert not main_process()


def test_a_terminated_run_does_not_say_that_it_is_done(tmp_path, monkeypatch, capsys):
    import signal

    from lit_cascade.cli import main
    from tests.toys import Steep

    real = Steep.forward

    def terminated(self, x):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(self, x)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    monkeypatch.setattr(Steep, "forward", terminated)
    words = pair(tmp_path, "pair", toy("Points", n=40))
    assert main(["test", *words, "--out", "o"]) == 143
    assert "lit-cascade test: terminated" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
