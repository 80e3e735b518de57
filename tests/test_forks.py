"""A fork of the server behaves like a new interpreter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.runs import finished, variables
from tests.forks import ADDRESS, ROOT, Process

PROGRAM = """
import json, os, signal, sys
print(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "env": sorted(os.environ), "path": sys.path[:2],
    "name": sys.modules["__main__"].__spec__.name, "leads": os.getsid(0) == os.getpid(),
    "files": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None,
    "signals": [signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGCHLD)],
}))
print("complaint", file=sys.stderr)
how = sys.argv[-1]
if how == "waits":
    open("waits", "w").close()
    signal.pause()
sys.exit({"none": None, "text": "a text", "number": 7}[how])
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def test_a_fork_is_as_a_new_interpreter(program):
    env = variables({"PYTHONPATH": "/somewhere", "OF_ITS_OWN": "1"})
    own = finished("program", "a b", "number", cwd=program, PYTHONPATH="/somewhere", OF_ITS_OWN=1)
    real = subprocess.run(
        [sys.executable, "-m", "program", "a b", "number"], cwd=program, env=env,
        capture_output=True, text=True, check=False, start_new_session=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert own.returncode == real.returncode == 7
    assert own.stderr == real.stderr == "complaint\n"
    assert json.loads(own.stdout) == json.loads(real.stdout)


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [("none", 0, ""), ("text", 1, "a text\n"), ("other", 1, "KeyError: 'other'\n")],
)
def test_exits_have_the_codes_of_an_interpreter(program, how, code, says):
    run = finished("program", how, cwd=program)
    assert run.returncode == code
    assert run.stderr.endswith(says)


# SIGINT also where the shell has had it ignored, as of what it starts in the background
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_process_can_be_waited_for_and_ended(program, number):
    process = Process("program", "waits", cwd=program, env=variables({}))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    while not (program / "waits").exists():
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(60) == process.poll() == -number
    assert not process.group_lives()


def test_nothing_is_left_when_the_tests_are_killed(program):
    """The server, its children and its folder are gone."""
    tests = (
        "import os, signal; from tests.forks import Process, address, start; start(bare=True);"
        "process = Process('program', 'waits', cwd='.', env=dict(os.environ));"
        "print(process.pid, os.path.dirname(address()), flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = variables({ADDRESS: None, "PYTHONPATH": ROOT})
    run = subprocess.run(
        [sys.executable, "-c", tests], cwd=program, env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == -signal.SIGKILL, run.stderr
    pid, folder = run.stdout.split()
    deadline = time.monotonic() + 60
    while (Path(folder).exists() or alive(int(pid))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(folder).exists()
    assert not alive(int(pid))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
