"""Running the command line as a user does, in a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys

_PATIENCE = 300


def lit_cascade(*words, cwd, **environment):
    """Run `python -m lit_cascade` and return the finished process, with its output as text.

    One that does not end is stopped with all that it started, and each process says where it was.
    """
    run = subprocess.Popen(
        [sys.executable, "-m", "lit_cascade", *map(str, words)],
        cwd=cwd,
        env=os.environ
        | {"CUDA_VISIBLE_DEVICES": "", "PYTHONFAULTHANDLER": "1"}
        | {k: str(v) for k, v in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = run.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGABRT)  # the fault handler prints every thread's stack
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        stdout, stderr = run.communicate()
        raise AssertionError(f"no end after {_PATIENCE} s.\n{stdout}{stderr}") from None
    return subprocess.CompletedProcess(run.args, run.returncode, stdout, stderr)


def done(run):
    """The process, after checking that it succeeded."""
    assert run.returncode == 0, run.stdout + run.stderr
    return run
