import errno
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest

from lit_cascade import UsageError
from lit_cascade.utilities import locks
from lit_cascade.utilities.locks import held, new_folder
from tests.forks import ROOT

HOLDER = """
import sys
from pathlib import Path
from lit_cascade.utilities.locks import held
with held(Path(sys.argv[1]), sys.argv[2:]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder, *names):
    """Another process that holds names in a folder until the block ends."""
    command = [sys.executable, "-c", HOLDER, str(folder), *names]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_two_processes_do_not_hold_one_name_and_leave_no_file(tmp_path):
    with holder(tmp_path, "a.csv", "b.csv"):
        with held(tmp_path, ["c.csv"]):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [locks.LOCK], "still held"
        refused = pytest.raises(UsageError, match=r"another run is writing 'b.csv' into")
        with refused, held(tmp_path, ["c.csv", "b.csv"]):
            pass
        with holder(tmp_path, "c.csv"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_killed_process_holds_nothing(tmp_path):
    with holder(tmp_path, "a.csv") as process:
        process.kill()
        process.wait()
        with held(tmp_path, ["a.csv"]):
            assert [path.name for path in tmp_path.iterdir()] == [locks.LOCK]
    assert not list(tmp_path.iterdir())


def test_without_locks_nothing_is_held(tmp_path):
    with mock.patch.object(locks, "fcntl", None), held(tmp_path, ["a.csv"]):
        assert not list(tmp_path.iterdir())
    none = mock.patch("fcntl.lockf", side_effect=OSError(errno.ENOSYS, "not implemented"))
    with none, held(tmp_path, ["a.csv"]):
        assert not list(tmp_path.iterdir())


def test_a_new_folder_is_removed_with_its_parents_where_nothing_is_written(tmp_path):
    with new_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    with ExitStack() as stack:
        for name in ("b", "c"):
            stack.enter_context(new_folder(tmp_path / "a" / name))
        (tmp_path / "a" / "c" / "result").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c"]
    with pytest.raises(FileExistsError), new_folder(tmp_path / "a", exist_ok=False):
        pass
