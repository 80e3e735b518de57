"""Several processes give what one gives, and end together when one of them ends."""

import math
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from lit_cascade.lit.predicting import PARTS
from lit_cascade.utilities.locks import LOCK
from tests.cli.runs import as_srun, done, lit_cascade, modules_together, together, within
from tests.lit.split_work import SIZES, work

BOUND = 60
"""Seconds within which a run has ended after one of its processes has."""


def toy(kind, **arguments):
    return {"class_path": f"tests.toys.{kind}", "init_args": arguments}


def stage(kind="Net", **arguments):
    return {"network": toy(kind, **arguments)}


SMALL, LARGE = stage("Steep", width=3, seed=1), stage(width=8, seed=2)


def pair(folder, name, points, threshold=0.6, small=SMALL, large=LARGE, **changes):
    """Write the config of two stages, and return the words that name it."""
    config = {
        "model": {"stages": {"small": small, "large": large}},
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
    """The content of everything in a folder, hidden files too, but not the lock of a killed run."""
    every = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    paths = [path for path in every if path.name != LOCK]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of every size and threshold."""
    folder = tmp_path_factory.mktemp("alone")
    work(1, folder, SIZES)
    return folder


def stages_of(folder):
    rows = (folder / "answers.csv").read_text().splitlines()[1:]
    return [row.split(",")[3].strip('"') for row in rows]


def test_the_processes_have_different_work(alone):
    stages = stages_of(alone / "uneven" / "0.6-2")
    assert set(stages[:8]) == {"small"}
    assert set(stages[8:16]) == {"small", "large"}
    assert set(stages[16:]) == {"large"}
    assert len(stages) == 21
    assert set(stages_of(alone / "uneven" / "-inf-1")) == {"small"}
    assert set(stages_of(alone / "uneven" / "inf-1")) == {"large"}
    assert len(stages_of(alone / "one" / "0.6-8")) == 1


@pytest.mark.parametrize(("count", "sizes"), [(2, ["one"]), (3, list(SIZES))])
def test_several_processes_make_the_bytes_of_one(alone, tmp_path, count, sizes):
    """Also where there are fewer samples than processes, and where a process defers nothing."""
    done(modules_together(count, ["tests.lit.split_work", count, tmp_path, *sizes], cwd=tmp_path))
    for size in sizes:
        one, several = files(alone / size), files(tmp_path / size)
        for rank in range(1, count):  # every process is told what was fitted
            assert several.pop(f"temperature{rank}") == several["temperature0"]
        assert len(one) >= 13
        assert several.keys() == one.keys()
        for path, content in one.items():
            assert several[path] == content, path


def test_all_processes_write_into_the_folder_of_the_main_one(tmp_path, monkeypatch):
    """Without --out each looks for an unused one, and may see those of the others.

    Here each is told another, and they are on two machines under SLURM.
    """
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    both = pair(tmp_path, "pair", toy("Sorted"))
    (tmp_path / "runs").mkdir()
    for name in ("record", "predict"):
        done(within(name, *both, "--out", f"{name}-alone", cwd=tmp_path))
    runs = [[name, *both, "--out", f"runs/{name}-{{rank}}"] for name in ("record", "predict")]
    done(together(2, *runs, cwd=tmp_path, starter=as_srun))
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"record-0", "predict-0"}
    for name in ("record", "predict"):
        assert files(tmp_path / "runs" / f"{name}-0") == files(tmp_path / f"{name}-alone")


def dying(folder, rank, **arguments):
    """The words of a pair whose small stage ends a process after three batches of five."""
    small = stage("Dying", rank=rank, **arguments)
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
    for rank, *names in ((0, "test", "predict"), (1, "record", "predict")):
        for name in names:
            gather = ("--gather", "1") if name in {"test", "predict"} else ()
            commands[f"{name}{rank}"] = (name, *dying(tmp_path, rank), *gather)
        commands[f"fit{rank}"] = ("fit", *training(tmp_path, rank))
    runs = [[*command, "--out", out] for out, command in commands.items()]
    run = together(2, *runs, cwd=tmp_path, DYING=tmp_path / "pids")
    assert run.returncode != 0
    for (out, command), (codes, seconds) in zip(commands.items(), run.ended, strict=True):
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
    assert run.stderr.count("another process of this run was lost") == len(commands)
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
    huge = pair(tmp_path, "huge", toy("Points", n=40), math.inf, large=stage("BadNet"))
    runs = [["validate", *bad, "--out", "o"], ["test", *huge, "--gather", "1", "--out", "o"]]
    run = together(2, *runs, cwd=tmp_path)
    read, ran = run.ended
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
        cwd=tmp_path, DYING=tmp_path / "pids",
    )  # fmt: skip
    print(f"ended after {time.monotonic() - start:.0f} s with {run.returncode}")
    assert run.returncode != 0
    assert time.monotonic() - start < 2 * BOUND
    assert all_ended(tmp_path / "pids")
    assert not (tmp_path / "o").exists()


def test_the_processes_that_lightning_started_end_with_the_main_one(tmp_path):
    """Which would else answer all of their samples before they miss it."""
    (tmp_path / "pids").mkdir()
    words = ("predict", *dying(tmp_path, 0, linger=30), "--gather", "1", "--out")
    done(within(*words, "whole", cwd=tmp_path))
    start = time.monotonic()
    run = lit_cascade(*words, "o", *LIGHTNING, cwd=tmp_path, DYING=tmp_path / "pids")
    print(f"ended after {time.monotonic() - start:.0f} s with {run.returncode}")
    assert run.returncode == -9
    assert time.monotonic() - start < 2 * BOUND
    assert all_ended(tmp_path / "pids")
    windows = {int(path.stem) for path in (tmp_path / "o" / PARTS).glob("*.parquet")}
    assert len([window for window in windows if window % 2]) <= 3  # of the second process
    assert not (tmp_path / "o" / "predictions.parquet").exists()
    done(within(*words, "o", cwd=tmp_path))
    assert files(tmp_path / "o") == files(tmp_path / "whole")


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
    from lit_cascade.utilities.files import main_process

    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert main_process()
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "0")
            assert main_process()
            patch.setenv(name, "1")
            assert not main_process()
