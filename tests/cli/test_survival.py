"""What long runs meet: signals, workers that die, memory and disks that are full."""

import errno
import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest
import yaml

from lit_cascade.lit.predicting import PARTS
from lit_cascade.utilities.locks import LOCK
from tests.cli.runs import done, together, within
from tests.cli.signalled import Ending, end

N = 60

# torch tells of a dead worker by a signal handler, in the middle of whatever runs: a file that is
# just being opened then is closed by nobody
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def config(folder, net="tests.toys.Net", **data):
    """Write the config of a small cascade and its data, and return the words that name it."""
    stages = {
        name: {"network": {"class_path": net, "init_args": {"width": width, "seed": width}}}
        for name, width in (("small", 3), ("large", 8))
    }
    points = {"class_path": "tests.hazards.Deadly", "init_args": {"n": N}}
    arguments = {"validation": points, "train": points, "batch_size": 2, "name": "points"} | data
    content = {
        "model": {"stages": stages},
        "data": {"class_path": "lit_cascade.data.Datasets", "init_args": arguments},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return ["--config", "c.yaml"]


def predicting(words, out="o", form="parquet"):
    return [
        "predict", *words, "--policy.thresholds", "[0.5]", "--gather", "2",
        "--format", form, "--out", out,
    ]  # fmt: skip


def files(folder):
    """Content of files by name; a killed run leaves its lock, which holds nothing."""
    there = (path for path in Path(folder).iterdir() if path.is_file() and path.name != LOCK)
    return {path.name: path.read_bytes() for path in there}


def whole(folder, words, form="parquet"):
    """The bytes of a run that nothing disturbs."""
    done(within(*predicting(words, f"whole-{form}", form), cwd=folder))
    return (folder / f"whole-{form}" / f"predictions.{form}").read_bytes()


SIGNALS = {
    "alone": ("0", signal.SIGINT, False),
    "group": ("2", signal.SIGINT, True),  # as a terminal sends it
    "preempted": ("2", signal.SIGTERM, False),
}
MOMENTS = {
    "joined": ("lit_cascade.cli.output.Output.write", 1),
    # the first of either finds nothing to clear
    "told": ("lit_cascade.utilities.resume.UnfinishedRun.remove", 2),
    "cleared": ("lit_cascade.utilities.resume.shutil.rmtree", 2),
    "other": ("lit_cascade.cli.output.Output.write", 1),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Real processes, each brought to its end: the folder, the config, and what came of each."""
    folder = tmp_path_factory.mktemp("ended")
    words = config(folder)
    slow = {"SLOW": "0.05"}
    wanted = {
        out: Ending(
            [*predicting(words, out), "--data.init_args.num_workers", workers],
            f"{out}/{PARTS}/0*.parquet", 3, number, group, environment=slow,
        )
        for out, (workers, number, group) in SIGNALS.items()
    }  # fmt: skip
    recording = ["record", *words, "--out", "recorded", "--data.init_args.num_workers", "2"]
    wanted["recorded"] = Ending(
        recording, "recorded/small*", 1, signal.SIGINT, group=True, environment=slow
    )
    for out, (at, count) in MOMENTS.items():
        wanted[out] = Ending(predicting(words, out, "csv"), at=at, count=count)
    return folder, words, {out: end(one, folder) for out, one in wanted.items()}


@pytest.mark.parametrize("out", SIGNALS)
def test_a_signal_ends_a_run_in_one_line_and_it_goes_on(ended, out):
    folder, words, found = ended
    stopped = SIGNALS[out][1] == signal.SIGTERM
    assert found[out].code == (143 if stopped else 130), found[out]
    how = "stopped by SIGTERM" if stopped else "interrupted"
    *before, last = found[out].err.splitlines()
    assert last == f"lit-cascade predict: {how}"
    assert not [line for line in before if "lit-cascade" in line]
    assert not before or SIGNALS[out][0] != "0"  # what torch says of workers, at times
    assert not found[out].left
    assert found[out].seconds < 20
    kept = len(list((folder / out / PARTS).glob("*.parquet")))
    assert 3 <= kept < 15
    assert not files(folder / out)
    run = done(within(*predicting(words, out), cwd=folder))
    assert f"An earlier run had given {4 * kept} of the {N} answers." in run.stdout
    if not (folder / "whole-parquet").exists():
        whole(folder, words)
    one, other = (files(folder / each)["predictions.parquet"] for each in (out, "whole-parquet"))
    assert one == other
    assert not (folder / out / PARTS).exists()


def test_a_signal_ends_a_recording_in_one_line_and_it_goes_on(ended):
    folder, words, found = ended
    assert found["recorded"].code == 130, found["recorded"]
    *before, last = found["recorded"].err.splitlines()
    assert last == "lit-cascade record: interrupted"
    assert before[:2] == ["Recording into recorded", "[1/2] small"]
    assert not found["recorded"].left
    assert set(files(folder / "recorded")) == {"small.safetensors"}
    run = done(within("record", *words, "--out", "recorded", cwd=folder))
    assert run.stdout.count(" kept") == 1


def test_a_run_killed_at_its_very_end_goes_on(ended):
    """Between the file's place and what is told of it, after that, and while parts are removed."""
    folder, words, found = ended
    both = {"predictions.csv", "predict.json"}
    for out in MOMENTS:
        assert found[out].code == -signal.SIGKILL
        assert set(files(folder / out)) == (
            both if out in {"told", "cleared"} else both - {"predict.json"}
        )
    expected = whole(folder, words, "csv")
    (folder / "joined" / ".predict.json.abcd_123").write_bytes(b"half of i")
    for out in ("joined", "told"):
        run = done(within(*predicting(words, out, "csv"), cwd=folder))
        assert f"An earlier run had given {N} of the {N} answers." in run.stdout
        assert set(files(folder / out)) == both
        assert files(folder / out)["predictions.csv"] == expected
        assert json.loads(files(folder / out)["predict.json"])["n"] == N
        assert not (folder / out / PARTS).exists()
    # finished: what is left of the parts is nobody's
    run = within(*predicting(words, "cleared", "csv"), cwd=folder)
    assert run.returncode == 2
    assert "already holds predictions.csv, predict.json" in run.stderr
    done(within(*predicting(words, "cleared", "csv"), "--overwrite", cwd=folder))
    assert files(folder / "cleared")["predictions.csv"] == expected
    assert not (folder / "cleared" / PARTS).exists()


def test_what_is_interrupted_is_gone_on_with_by_the_same_command_only(ended):
    folder, words, _ = ended
    before, made = files(folder / "other"), predicting(words, "other", "csv")
    run = within(*made, "--policy.score", "margin", cwd=folder)
    assert run.returncode == 2
    assert "holds an interrupted run with another policy" in run.stderr
    assert files(folder / "other") == before
    anew = within(*made, "--policy.score", "margin", "--overwrite", cwd=folder)
    assert "An earlier run" not in done(anew).stdout


def test_another_format_takes_the_place_of_the_last_one(tmp_path):
    words = config(tmp_path)
    done(within(*predicting(words), cwd=tmp_path))
    done(within(*predicting(words, form="csv"), "--overwrite", cwd=tmp_path))
    assert set(files(tmp_path / "o")) == {"predictions.csv", "predict.json"}


COMMANDS = {
    "predict": predicting,
    "test": lambda words: ["test", *words, "--policy.thresholds", "[0.5]", "--out", "o"],
    "validate": lambda words: ["validate", *words, "--out", "o"],
    "record": lambda words: ["record", *words, "--only", "large", "--out", "o"],
}


def fitting(folder):
    network = {"class_path": "tests.toys.Net"}
    content = yaml.safe_load((folder / "c.yaml").read_text())
    content["model"] = {"name": "net", "network": network}
    content["trainer"]["max_epochs"] = 1
    (folder / "fit.yaml").write_text(yaml.safe_dump(content))
    return ["fit", "--config", "fit.yaml", "--out", "o"]


@pytest.mark.parametrize(
    ("command", "death"),
    [("predict", "killed"), ("validate", "killed"), ("fit", "killed"), ("record", "exits"),
     ("test", "exits")],
)  # fmt: skip
def test_a_worker_that_dies_is_one_clear_error(tmp_path, monkeypatch, command, death):
    words = config(tmp_path, num_workers=2)
    expected = whole(tmp_path, words) if command == "predict" else b""
    made = fitting(tmp_path) if command == "fit" else COMMANDS[command](words)
    monkeypatch.setenv("DEADLY", death)
    run = within(*made, cwd=tmp_path)
    assert run.returncode == 1
    (said,) = [line for line in run.stderr.splitlines() if "error" in line]
    assert said.startswith(f"lit-cascade {command}: error: a process that loads samples ")
    assert ("signal: Killed" if death == "killed" else "exit code 9") in said
    assert "too little memory" in said
    assert "--data.init_args.num_workers" in said
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "o").exists() or not files(tmp_path / "o")
    if command == "predict":
        assert said.endswith("kept: the same command with --out o resumes.")
        # with fewer workers, as the message has it: they change no answer
        run = done(within(*made, "--data.init_args.num_workers", "0", cwd=tmp_path))
        assert "An earlier run had given" in run.stdout
        assert files(tmp_path / "o")["predictions.parquet"] == expected


@pytest.mark.parametrize(
    ("death", "says"),
    [
        ("bus", "the shared memory through which workers pass samples is full. Give it more"),
        ("crashes", "a library that it uses crashed, perhaps on a damaged sample"),
    ],
)
def test_what_a_worker_died_of_is_told_apart(tmp_path, monkeypatch, capfd, death, says):
    words = config(tmp_path, num_workers=1)
    monkeypatch.setenv("DEADLY", death)
    run = within(*predicting(words), cwd=tmp_path)
    assert run.returncode == 1
    assert says in run.stderr
    capfd.readouterr()  # what torch's own handler says


def test_other_models_are_recorded_when_a_worker_of_one_dies(tmp_path, monkeypatch):
    words = config(tmp_path, num_workers=2)
    done(within("record", *words, "--out", "whole", cwd=tmp_path))
    monkeypatch.setenv("DEADLY", "killed")
    from lit_cascade.lit.zoo import LitZoo

    kept = LitZoo.select

    def select(self, name):
        if name == "large":
            os.environ.pop("DEADLY", None)
        kept(self, name)

    monkeypatch.setattr(LitZoo, "select", select)
    run = within("record", *words, "--out", "o", cwd=tmp_path)
    assert run.returncode == 1
    assert "1 of 2 models was not recorded:\n  small: a process that loads samples" in run.stderr
    assert set(files(tmp_path / "o")) == {"large.safetensors"}
    monkeypatch.setattr(LitZoo, "select", kept)
    monkeypatch.delenv("DEADLY")
    again = ("--data.init_args.num_workers", "1")  # which is no other recording
    run = done(within("record", *words, *again, "--out", "o", cwd=tmp_path))
    assert run.stdout.count(" kept") == 1
    assert (
        files(tmp_path / "o")["large.safetensors"] == files(tmp_path / "whole")["large.safetensors"]
    )


def failing(monkeypatch, beginning, number):
    """Let the disk refuse files of such a name: when they are synced, as it may be that late."""
    real = os.fsync

    def fsync(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().name.startswith(beginning):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize(
    ("form", "beginning", "number", "code"),
    [
        ("parquet", ".plan.json", errno.ENOSPC, 1),
        ("csv", ".00000003", errno.EDQUOT, 1),
        ("parquet", ".00000003", errno.EROFS, 2),
        ("parquet", ".predictions", errno.ENOSPC, 1),
        ("csv", ".predictions", errno.ENOSPC, 1),
        ("csv", ".predict.json", errno.ENOSPC, 1),
    ],
)
def test_a_disk_that_is_full_leaves_nothing_half_written(
    tmp_path, monkeypatch, form, beginning, number, code
):
    words = config(tmp_path)
    expected = whole(tmp_path, words, form)
    with monkeypatch.context() as patch:
        failing(patch, beginning, number)
        run = within(*predicting(words, form=form), cwd=tmp_path)
    assert run.returncode == code
    assert run.stderr.startswith("lit-cascade predict: error: cannot write 'o/")
    assert run.stderr.endswith(f": {os.strerror(number)}.\n")
    assert run.stderr.count("\n") == 1
    assert not list(tmp_path.rglob(".*")), "temporary files"
    last = beginning == ".predict.json"
    assert files(tmp_path / "o") == ({f"predictions.{form}": expected} if last else {})
    done(within(*predicting(words, form=form), cwd=tmp_path))
    assert files(tmp_path / "o")[f"predictions.{form}"] == expected
    assert not (tmp_path / "o" / PARTS).exists()


def test_a_file_that_grows_too_large_is_not_left_half_written(tmp_path):
    """The system itself refuses to write on, in the middle of the whole."""
    words = config(tmp_path)
    expected = whole(tmp_path, words)
    largest = max(len(one) for one in files(tmp_path / "whole-parquet").values())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, limits[1]))
    try:
        run = within(*predicting(words), cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.returncode == 1
    assert run.stderr == (
        "lit-cascade predict: error: cannot write 'o/predictions.parquet': File too large.\n"
    )
    assert not files(tmp_path / "o")
    assert len(list((tmp_path / "o" / PARTS).iterdir())) == 15 + 1
    done(within(*predicting(words), cwd=tmp_path))
    assert files(tmp_path / "o")["predictions.parquet"] == expected


def test_a_file_where_the_parts_are_to_be_is_told(tmp_path):
    words = config(tmp_path)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / PARTS).write_text("mine")
    run = within(*predicting(words), cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith(f"lit-cascade predict: error: cannot write 'o/{PARTS}/plan.json'")
    assert (tmp_path / "o" / PARTS).read_text() == "mine"


@pytest.mark.parametrize(
    ("beginning", "says"),
    [(".large.safetensors", "cannot write 'o/large.safetensors'"), ("spool", "cannot write into")],
)
def test_a_recording_on_a_full_disk_goes_on_to_the_same_bytes(
    tmp_path, monkeypatch, beginning, says
):
    words = config(tmp_path)
    done(within("record", *words, "--out", "whole", cwd=tmp_path))
    made = ["record", *words, "--out", "o"]
    done(within(*made, "--only", "small", cwd=tmp_path))
    with monkeypatch.context() as patch:
        if beginning == "spool":
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        else:
            failing(patch, beginning, errno.ENOSPC)
        try:
            run = within(*made, cwd=tmp_path)
        finally:
            if beginning == "spool":
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.returncode == 1
    assert says in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert set(files(tmp_path / "o")) == {"small.safetensors"}
    done(within(*made, cwd=tmp_path))
    assert files(tmp_path / "o") == files(tmp_path / "whole")


def told(folder, file):
    return json.loads((folder / file).read_text())


def test_batches_that_do_not_fit_into_memory_run_in_parts_and_it_is_said(tmp_path, monkeypatch):
    words = config(tmp_path, "tests.hazards.Crowded", batch_size=8)
    done(within(*predicting(words, "whole", "csv"), cwd=tmp_path))
    monkeypatch.setenv("ROOM", "3")
    run = done(within(*predicting(words, form="csv"), cwd=tmp_path))
    notes = [
        f"Note: batches of {name!r} did not fit into memory; it ran 2 at a time, which may change "
        "the last digits."
        for name in ("small", "large")
    ]
    assert told(tmp_path / "o", "predict.json")["notes"] == notes
    assert told(tmp_path / "whole", "predict.json")["notes"] == []
    for note in notes:
        assert note in run.stdout
    rows = [(tmp_path / out / "predictions.csv").read_text().split() for out in ("o", "whole")]
    assert len(rows[0]) == N + 1
    for one, other in zip(*rows, strict=True):
        assert one.split(",")[:2] == other.split(",")[:2]
    tested = within("test", *words, "--policy.thresholds", "[0.5]", "--out", "t", cwd=tmp_path)
    assert notes[0] in done(tested).stdout
    assert told(tmp_path / "t", "test.json")["notes"] == notes


@pytest.mark.parametrize(
    ("net", "variable", "says"),
    [
        ("Crowded", ("ROOM", "0"), "CUDA out of memory. Tried to allocate 2.00 GiB. More. Try"),
        ("Hungry", ("HUNGRY", "1"), "DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_single_sample_that_does_not_fit_is_one_clear_error(
    tmp_path, monkeypatch, net, variable, says
):
    words = config(tmp_path, f"tests.hazards.{net}")
    expected = whole(tmp_path, words)
    for command in (predicting(words), COMMANDS["test"](words)):
        with monkeypatch.context() as patch:
            patch.setenv(*variable)
            run = within(*command, cwd=tmp_path)
        assert run.returncode == 1
        assert run.stderr.startswith(f"lit-cascade {command[0]}: error: ")
        assert "out of memory" in run.stderr
        assert run.stderr.count("\n") == 1
        assert not (tmp_path / "o").exists() or not files(tmp_path / "o")
        if command[0] == "predict":
            assert says in run.stderr
    done(within(*predicting(words), cwd=tmp_path))
    assert files(tmp_path / "o")["predictions.parquet"] == expected


def test_processes_that_lose_one_another_end_in_a_line_each(tmp_path, monkeypatch):
    words = config(tmp_path, num_workers=1)
    monkeypatch.setenv("DEADLY", "killed")
    start = time.monotonic()
    run = together(2, predicting(words), cwd=tmp_path)
    assert run.returncode == 1
    assert time.monotonic() - start < 200
    one, other = sorted(run.stderr.splitlines())
    assert "error: a process that loads samples is killed by signal: Killed" in one
    assert "error: another process of this run was lost" in other
    assert not files(tmp_path / "o")
