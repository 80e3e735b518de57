"""Being one of several processes: ending with the others, or refusing to be."""

from __future__ import annotations

import os
import threading
import time

from lit_cascade.errors import UsageError

__all__ = ["alone", "end_with_starter"]

_STARTER = "LIT_CASCADE_STARTER"
_EVERY = 1.0
"""Seconds between looks at whether the starter is still there."""


def alone(command: str) -> None:
    """Check that a command that needs no Trainer was not started several times over.

    Raises:
        UsageError: torchrun or srun has started several processes, which would all do the same.
    """
    # those of a step that srun made: a batch script itself has none
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        count = os.environ.get(name, "")
        if count.isdecimal() and int(count) > 1:
            raise UsageError(
                f"{command} needs one process here, and this is one of {count} ({name}): "
                "start it without torchrun, srun or the like."
            )


def end_with_starter() -> None:
    """Have this process end with the one that started it, if that started several.

    Lightning ends all when a process dies that its main one has started, but nobody ends these when
    the main one is killed: they would go on with work that nobody waits for, beside the run that
    takes it up again.
    """
    starter = _starter()
    os.environ[_STARTER] = str(os.getpid())  # for those that Lightning may start
    if starter is None or os.name != "posix":
        return

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch over the starter").start()


def _starter() -> int | None:
    """The process that has started this one among others; None if this is the first or only one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.getppid()
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return None
    # it may be gone already, so that this process has another parent
    return int(os.environ.get(_STARTER) or os.getppid())
