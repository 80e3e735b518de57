"""One of several processes: refused where one is needed, and ended with the others."""

from __future__ import annotations

import os
import threading
import time

from lit_cascade.errors import UsageError

_STARTER = "LIT_CASCADE_STARTER"
_EVERY = 1.0
"""Seconds between checks that the starter is alive."""


def alone(command: str) -> None:
    """Check that a command without a Trainer runs in one process.

    Raises:
        UsageError: torchrun or srun has started several processes, which would repeat the work.
    """
    # SLURM sets its variable for the steps of srun, not for a batch script
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        count = os.environ.get(name, "")
        if count.isdecimal() and int(count) > 1:
            raise UsageError(
                f"{command} needs one process here, and this is one of {count} ({name}): "
                "start it without torchrun, srun or the like."
            )


def end_with_starter() -> None:
    """End this process when the one that started it among several ends.

    Lightning ends all processes when one that its main process has started dies, but not when the
    main process is killed: the others would go on beside the run that resumes the work.
    """
    starter = _starter()
    os.environ[_STARTER] = str(os.getpid())  # for processes that Lightning may start
    if starter is None or os.name != "posix":
        return

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch over the starter").start()


def _starter() -> int | None:
    """Id of the process that started this one among others; None in the first or only process."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.getppid()
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return None
    # the starter may have ended, so that this process has another parent
    return int(os.environ.get(_STARTER) or os.getppid())
