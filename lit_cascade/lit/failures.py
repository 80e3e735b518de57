"""Failures of the machine in the middle of a loop, told in a sentence that says what would work.

A worker that the kernel kills, memory that runs out and a process that is lost all come out of
torch as a RuntimeError, wherever the program happens to be at that moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities.memory import is_oom_error

from lit_cascade.errors import CascadeError

__all__ = ["explained", "first_line", "is_out_of_memory"]

_FEWER = "fewer of them (--data.init_args.num_workers) or smaller batches"
_SMALLER = "smaller batches (--data.init_args.batch_size)"
_ALLOCATION = ("out of memory", "can't allocate memory", "_ALLOC_FAILED", "Unable to allocate")
_SHARED = ("Bus error", "shared memory", "</torch_")
_LOST = ("Connection closed by peer", "Connection reset by peer", "Socket closed")
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or is_oom_error(error):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATION)


@contextmanager
def explained(then: str = "") -> Iterator[None]:
    """Make one clear error of what the machine does to a loop; other errors are left as they are.

    Args:
        then: what to do afterwards; added to the message.

    Raises:
        CascadeError: a worker died, memory ran out, or another process was lost.
        KeyboardInterrupt: that is what it came from.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if _interrupted(error):  # and what was under way broke in its turn
            raise KeyboardInterrupt from error
        told = _told(error)
        if told is None:
            raise
        raise CascadeError(f"{told} {then}".strip()) from error


def _interrupted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _told(error: BaseException) -> str | None:
    said, worker = str(error), _WORKER.search(str(error))
    told = None
    if any(text in said for text in _SHARED):
        told = (
            "the shared memory that workers hand samples over in is full. Give it more "
            f"(/dev/shm; in a container --shm-size), or try {_FEWER}."
        )
    elif worker is not None:
        told = _of_worker(worker[1], worker[2].split(". Details")[0].strip(" ."))
    elif "Too many open files" in said:
        told = f"{first_line(error)}: raise the limit with `ulimit -n`, or try {_FEWER}."
    elif is_out_of_memory(error):
        told = f"out of memory: {first_line(error)}: try {_SMALLER}."
    elif any(text in said for text in _LOST):
        told = "another process of this run was lost; if it said why, that is above."
    return told


def _of_worker(pid: str, how: str) -> str:
    told = f"a process that loads samples (pid {pid}) {how}"
    if "signal" in how and "Killed" not in how and "Terminated" not in how:
        return (
            f"{told}: a library that it uses crashed, on a damaged sample perhaps; "
            "--data.init_args.num_workers 0 shows where."
        )
    return f"{told}. Most likely the machine has too little memory for so many: try {_FEWER}."


def first_line(error: BaseException) -> str:
    """What an error says, without the traceback of the worker that it came from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1 if lines[0].startswith("Caught ") else 0].rstrip(".:")
