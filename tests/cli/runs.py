"""Running the command line as a user does, in processes of its own, or within this one."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import torch

from lit_cascade.cli import main

ROOT = Path(__file__).parents[2]
_PATIENCE = 300


def lit_cascade(*words, cwd, **environment):
    """Run `python -m lit_cascade` and return the finished process, with its output as text.

    A process of its own takes seconds to import everything: it is for what is about processes.
    An environment variable of None is taken away.
    """
    return finished(["lit_cascade", *words], cwd, environment)


def together(count, *commands, cwd, **environment):
    """Run commands one after the other, each by several processes, as `torchrun` would.

    They get as many threads as this process has, and have imported everything together. `{rank}` in
    a word is the number of the process. The last line of stdout is JSON: of each command the exit
    codes of the processes, and the seconds until the last one was done.
    """
    words = [[str(word) for word in command] for command in commands]
    given = {"OMP_NUM_THREADS": torch.get_num_threads(), "PYTHONPATH": ROOT} | environment
    return finished(["tests.cli.several", count, json.dumps(words)], cwd, given)


def in_turn(*commands, cwd, **environment):
    """Run commands one after the other in one process of its own."""
    words = [[str(word) for word in command] for command in commands]
    given = {"OMP_NUM_THREADS": torch.get_num_threads(), "PYTHONPATH": ROOT} | environment
    return finished(["tests.cli.in_turn", json.dumps(words)], cwd, given)


def within(*words, cwd):
    """Run a command in this process, on the CPU, and return what `lit_cascade` does.

    Whatever it changes outside of its folder is put back.
    """
    out, err = io.StringIO(), io.StringIO()
    loaded = set(sys.modules)
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""),
        mock.patch.object(sys, "argv", ["lit-cascade"]),
        mock.patch.object(sys, "path", list(sys.path)),
        warnings.catch_warnings(),
    ):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
    for name in set(sys.modules) - loaded:  # the next command may have a module of that name
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(cwd):
            del sys.modules[name]
    return subprocess.CompletedProcess(list(words), code, out.getvalue(), err.getvalue())


def finished(words, cwd, environment):
    """A Python module run to its end.

    One that does not end is stopped with all that it started, and each process says where it was.
    """
    given = {"CUDA_VISIBLE_DEVICES": "", "PYTHONFAULTHANDLER": "1"} | environment
    run = subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        cwd=cwd,
        env={k: str(v) for k, v in (os.environ | given).items() if v is not None},
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


def killed_once(there, *words, cwd):
    """Run a command in a process of its own, and kill it as soon as `there()` is true."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lit_cascade", *words],
        cwd=cwd,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _PATIENCE
        while not there() and time.monotonic() < deadline:
            assert process.poll() is None, "it was done before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def done(run):
    """The process, after checking that it succeeded."""
    assert run.returncode == 0, run.stdout + run.stderr
    return run
