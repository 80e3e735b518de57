"""Files of answers, whatever interrupts their making, and failures told in a sentence."""

import errno
import sys

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lit_cascade import CascadeError, LitCascade, PolicyOptions, Stage, UsageError
from lit_cascade.data import UnlabelledImages
from lit_cascade.lit.failures import explained
from lit_cascade.lit.predicting import PARTS, PredictionFiles, unfinished_predictions
from lit_cascade.lit.stages import least_by_stage
from lit_cascade.utilities.files import open_atomically, remove_temporary_files
from tests.hazards import Crowded
from tests.lit.test_predicting import Small, model, table
from tests.lit.test_trainer import points, trainer

N = 41


def test_a_run_is_unfinished_until_what_is_told_of_it_is_written(tmp_path):
    seen = []

    def full(found):
        seen.append((found.n, found.resumed, sorted(path.name for path in tmp_path.iterdir())))
        raise CascadeError("no room")

    with pytest.raises(CascadeError, match="no room"):
        trainer().answer(model(), points(N), tmp_path, finish=full)
    assert seen == [(N, 0, ["predictions.parquet", PARTS])]
    assert unfinished_predictions(tmp_path)
    written = (tmp_path / "predictions.parquet").read_bytes()
    told = []
    done = trainer().answer(model(), points(N), tmp_path, finish=told.append)
    assert told == [done]
    assert done.resumed == N
    assert not unfinished_predictions(tmp_path)
    assert (tmp_path / "predictions.parquet").read_bytes() == written


def test_parts_without_a_plan_are_of_no_run(tmp_path):
    files = PredictionFiles(tmp_path, "predictions.parquet")
    assert files.resume({"a": 1}) == set()
    for window in (0, 2):
        files.write(window, {"position": [window], "stage": [0]}, {}, {})
    assert files.resume({"a": 1}) == {0, 2}
    (tmp_path / PARTS / "plan.json").unlink()
    assert files.resume({"a": 1}) == set()
    assert [path.name for path in (tmp_path / PARTS).iterdir()] == ["plan.json"]
    unfinished_predictions(tmp_path).remove()
    assert not list(tmp_path.iterdir())


def test_what_ran_in_parts_is_remembered_by_the_run_that_goes_on(tmp_path, monkeypatch):
    def stages():
        return {f"net{k}": Stage(Crowded(4**k + 3, seed=k)) for k in range(2)}

    net = LitCascade(stages(), PolicyOptions(thresholds=[0.5]))
    monkeypatch.setenv("ROOM", "2")
    kept = PredictionFiles.write

    def stopping(self, window, *rest):
        if window == 2:
            raise CascadeError("stop")
        kept(self, window, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionFiles, "write", stopping)
        with pytest.raises(CascadeError, match="stop"):
            trainer().answer(net, points(N), tmp_path, gather=2)
    monkeypatch.delenv("ROOM")
    net = LitCascade(stages(), PolicyOptions(thresholds=[0.5]))
    done = trainer().answer(net, points(N), tmp_path, gather=2)
    assert done.resumed == 16
    assert done.samples_per_forward == {"net0": 2, "net1": 2}
    assert net.samples_per_forward() == {}
    assert trainer().answer(net, points(N), tmp_path / "whole", gather=2).samples_per_forward == {}


def test_a_live_run_says_what_ran_in_parts(monkeypatch):
    stages = {f"net{k}": Stage(Crowded(4**k + 3, seed=k)) for k in range(2)}
    net = LitCascade(stages, PolicyOptions(thresholds=[0.5]))
    whole = trainer().execute(net, points(N))
    assert whole.samples_per_forward == {}
    monkeypatch.setenv("ROOM", "3")
    parts = trainer().execute(net, points(N))
    assert parts.samples_per_forward == {"net0": 2, "net1": 2}
    assert torch.equal(parts.prediction, whole.prediction)
    assert torch.equal(parts.flops, whole.flops)


def test_the_fewest_count_of_what_several_say():
    assert least_by_stage([{"a": 4}, {}, {"a": 2, "b": 8}, {"a": 3}]) == {"a": 2, "b": 8}


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_window_of_which_nothing_can_be_read(tmp_path, place):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(6):
        path = images / f"{i}.png"
        if (i < 2) == (place == "first"):
            path.write_bytes(b"no image")
        else:
            Image.new("RGB", (40, 50), (20 * i, 90, 9)).save(path)
    net = LitCascade(
        {name: Stage(lambda: Small(160)) for name in ("one", "two")},
        PolicyOptions(thresholds=[float("inf")]),
    )
    data = UnlabelledImages(str(images), batch_size=2, num_workers=0)
    done = trainer().answer(net, data, tmp_path / "out", "predict", gather=1)
    read = [f"{i}.png" for i in range(6) if (i < 2) != (place == "first")]
    assert table(tmp_path / "out")["id"] == read
    assert done.n + len(done.left_out) == 6
    assert (
        str(pq.read_schema(tmp_path / "out" / "predictions.parquet").field("id").type) == "string"
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "),
            "a process that loads samples is killed by signal: Killed. Most likely the machine",
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that "
                "dataloader's workers are out of shared memory. Please try to raise your limit."
            ),
            "the shared memory through which workers pass samples is full",
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 12) exited unexpectedly with exit code 1. Details are lost "
                "due to multiprocessing. Rerunning with num_workers=0 may give better error trace."
            ),
            "a process that loads samples exited unexpectedly with exit code 1. Most likely",
        ),
        (
            RuntimeError("DataLoader worker (pid 12) is killed by signal: Segmentation fault. "),
            "Segmentation fault: a library that it uses crashed",
        ),
        (RuntimeError("Too many open files. Communication with"), "`ulimit -n`"),
        (MemoryError(), "out of memory: MemoryError: try smaller batches"),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most "
                'recent call last):\n  File "a.py"\nRuntimeError: [enforce fail at alloc_cpu.cpp] '
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\n"
            ),
            "out of memory: RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator",
        ),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:99"),
            "another process of this run was lost",
        ),
    ],
)
def test_what_the_machine_does_is_told_in_a_sentence(error, says):
    with pytest.raises(CascadeError) as told, explained("Then go on."):
        raise error
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert "Traceback" not in str(told.value)
    assert str(told.value).endswith(" Then go on.")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        UsageError("wrong"),
        FileNotFoundError(errno.ENOENT, "none"),
        EOFError(),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),  # of the data, perhaps
    ],
)
def test_other_errors_are_left_as_they_are(error):
    with pytest.raises(type(error)) as kept, explained():
        raise error
    assert kept.value is error


def test_a_death_met_while_a_loader_is_thrown_away_is_not_printed(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda met: shown.append(str(met.exc_value)))

    class Loader:
        def __init__(self, says):
            self.says = says

        def __del__(self):
            raise RuntimeError(self.says)

    with explained():
        Loader("DataLoader worker (pid 12) is killed by signal: Killed. ")
        Loader("other")
    Loader("DataLoader worker (pid 13) is killed by signal: Killed. ")
    assert shown == ["other", "DataLoader worker (pid 13) is killed by signal: Killed. "]


def test_what_an_interrupt_breaks_is_the_interrupt():
    def breaking():
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Interrupt. ")

    with pytest.raises(KeyboardInterrupt), explained():
        breaking()


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(error):
        with open_atomically(path, tmp_path) as file:
            file.write(b"half")
            assert path.read_bytes() == b"old"
            if error is not None:
                raise error

    for error, kind in (
        (OSError(errno.ENOSPC, "No space"), CascadeError),
        (OSError(errno.EACCES, "Denied"), UsageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):
        with pytest.raises(kind):
            write(error)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    write(None)
    assert path.read_bytes() == b"half"
    mine = [tmp_path / name for name in (".file.abcd_123", ".files.abcd_123", ".file.abc")]
    for one in mine:
        one.write_bytes(b"")
    remove_temporary_files(tmp_path, ["file"])
    assert sorted(tmp_path.iterdir()) == sorted([path, *mine[1:]])
