"""Running the command line as a user does, in processes of its own, or within this one."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import torch

from lit_cascade.cli import main
from tests.forks import ROOT, Process

PATIENCE = 300
"""Seconds after which a process is stopped."""


def lit_cascade(*words, cwd, **environment):
    """Run `python -m lit_cascade` and return its exit code and its output as text.

    An environment variable of None is removed.
    """
    return finished("lit_cascade", *words, cwd=cwd, **environment)


def finished(module, *words, cwd, **environment):
    """Run a Python module to its end, in a process of its own."""
    with outputs() as (out, err):
        process = Process(
            module, *words, cwd=cwd, env=variables(environment), stdout=out, stderr=err
        )
        code = exit_code_of(process, err)
        return subprocess.CompletedProcess(words, code, text(out), text(err))


def as_torchrun(rank, count):
    """What `torchrun` tells a process on one machine."""
    return {
        "WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0,
        "LOCAL_WORLD_SIZE": count, "TORCHELASTIC_RUN_ID": "several",
    }  # fmt: skip


def as_srun(rank, count):
    """What `srun` tells a process that is alone on its machine."""
    return {
        "SLURM_JOB_ID": 4711, "SLURM_JOB_NAME": "cascade", "SLURM_NNODES": count,
        "SLURM_NTASKS": count, "SLURM_NTASKS_PER_NODE": 1, "SLURM_STEP_NUM_TASKS": count,
        "SLURM_PROCID": rank, "SLURM_NODEID": rank, "SLURM_LOCALID": 0,
    }  # fmt: skip


def together(count, *commands, cwd, starter=as_torchrun, **environment):
    """Run commands one after the other, each by several processes, as `torchrun` would.

    `{rank}` in a word becomes the rank of the process. `ended` of the result holds, per command,
    the exit codes of the processes and the seconds until the last one ended.
    """
    nodes = count if starter is as_srun else 1
    devices = ["--trainer.strategy", "ddp", "--trainer.devices", count // nodes]
    devices += ["--trainer.num_nodes", nodes]
    runs = [["lit_cascade", *command, *devices] for command in commands]
    return modules_together(count, *runs, cwd=cwd, starter=starter, **environment)


def modules_together(count, *runs, cwd, starter=as_torchrun, **environment):
    """Run modules like the commands of `together`. A run is a module and its words."""
    codes_and_seconds = []
    with outputs() as (out, err):
        for module, *words in runs:
            start, port = time.monotonic(), free_port()
            processes = []
            for rank in range(count):
                env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | starter(rank, count)
                own = [str(word).replace("{rank}", str(rank)) for word in words]
                env = variables(env | environment)
                processes.append(Process(module, *own, cwd=cwd, env=env, stdout=out, stderr=err))
            codes = [exit_code_of(process, err) for process in processes]
            codes_and_seconds.append((codes, time.monotonic() - start))
        code = any(code != 0 for codes, _ in codes_and_seconds for code in codes)
        run = subprocess.CompletedProcess(runs, int(code), text(out), text(err))
    run.ended = codes_and_seconds
    return run


def within(*words, cwd):
    """Run a command in this process, on the CPU, and return the same as `lit_cascade`.

    Changes outside of its folder are undone.
    """
    out, err = io.StringIO(), io.StringIO()
    loaded = set(sys.modules)
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES="", LIT_CASCADE_MALLOC="default"),
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


def killed_once(there, *words, cwd, **environment):
    """Run a command in a process of its own, and kill it as soon as `there()` is true."""
    process = Process("lit_cascade", *words, cwd=cwd, env=variables(environment))
    try:
        deadline = time.monotonic() + PATIENCE
        while not there() and time.monotonic() < deadline:
            assert process.poll() is None, "it was done before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL, group=True)
        process.wait()


def done(run):
    """Return the run after checking that it succeeded."""
    assert run.returncode == 0, run.stdout + run.stderr
    return run


def variables(environment):
    """Return all environment variables of a process on the CPU that can import the tests.

    It has as many threads as this process.
    """
    given = {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": torch.get_num_threads(),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": ROOT,
    }
    both = os.environ | given | environment
    return {name: str(value) for name, value in both.items() if value is not None}


@contextlib.contextmanager
def outputs():
    """Open two files that several processes may write to."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        yield out, err


def text(file):
    file.seek(0)
    return file.read()


def exit_code_of(process, err):
    """Wait for a process. One that does not end is stopped and prints the stacks of its threads."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT, group=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        process.send_signal(signal.SIGKILL, group=True)
        raise AssertionError(f"no end after {PATIENCE} s.\n{text(err)}") from None


def free_port():
    """Return an unused port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
