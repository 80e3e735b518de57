"""Running the command line as a user does, in a process of its own."""

import os
import subprocess
import sys


def lit_cascade(*words, cwd, **environment):
    """Run `python -m lit_cascade` and return the finished process, with its output as text."""
    return subprocess.run(
        [sys.executable, "-m", "lit_cascade", *map(str, words)],
        cwd=cwd,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | {k: str(v) for k, v in environment.items()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def done(run):
    """The process, after checking that it succeeded."""
    assert run.returncode == 0, run.stdout + run.stderr
    return run
