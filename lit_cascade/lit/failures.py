"""Failures of the machine in the middle of a loop, told in a sentence that says what would work.

A worker that the kernel kills, memory that runs out and a process that is lost come out of torch as
a RuntimeError wherever the program happens to be at that moment, or as whatever that breaks first.
"""

from __future__ import annotations

import pickle
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

import torch
from lightning.pytorch.utilities.memory import is_oom_error

from lit_cascade.errors import CascadeError

__all__ = ["explained", "first_line", "is_out_of_memory"]

_FEWER = "fewer of them (--data.init_args.num_workers) or smaller batches"
_SMALLER = "smaller batches (--data.init_args.batch_size)"
_ALLOCATION = ("out of memory", "can't allocate memory", "_ALLOC_FAILED", "Unable to allocate")
_SHARED = ("Bus error", "shared memory", "</torch_")
_LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
_WORKER = re.compile(r"DataLoader worker \(pid (\d+)\) (.*?)(?:\. Details|\. It is|\.? *$)")
_ENDED = (None, 0, -signal.SIGTERM)  # as workers end that nobody misses


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
        with _silent_deaths():
            yield
    except (RuntimeError, MemoryError, OSError, EOFError, pickle.UnpicklingError) as error:
        if _interrupted(error):  # and what was under way broke in its turn
            raise KeyboardInterrupt from error
        try:
            told = _told(error)
        except RuntimeError as late:  # torch's signal handler, which found the worker only now
            told = _told(late)
        if told is None:
            raise
        raise CascadeError(f"{told} {then}".strip()) from error


@contextmanager
def _silent_deaths() -> Iterator[None]:
    """Keep Python from printing a worker's death that it meets while it throws a loader away."""
    shown = sys.unraisablehook

    def hook(met: sys.UnraisableHookArgs) -> None:
        if _WORKER.search(str(met.exc_value)) is None:
            shown(met)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = shown


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _interrupted(error: BaseException) -> bool:
    return any(isinstance(one, KeyboardInterrupt) for one in _chain(error))


def _told(error: BaseException) -> str | None:
    said, dead = str(error), _dead_worker(error)
    told = None
    if any(text in f"{said} {dead}" for text in _SHARED):
        told = (
            "the shared memory that workers hand samples over in is full. Give it more "
            f"(/dev/shm; in a container --shm-size), or try {_FEWER}."
        )
    elif dead is not None:
        told = f"a process that loads samples {dead}"
    elif "Too many open files" in said:
        told = f"{first_line(error)}: raise the limit with `ulimit -n`, or try {_FEWER}."
    elif is_out_of_memory(error):
        told = f"out of memory: {first_line(error)}: try {_SMALLER}."
    elif _is_of_others(error):
        told = (
            f"another process of this run was lost, or cannot be reached ({first_line(error)}); if "
            "it said why, that is above. If it says nothing, it was killed: often memory was short."
        )
    return told


def _is_of_others(error: BaseException) -> bool:
    """Whether it is about the other processes of a run."""
    if not isinstance(error, RuntimeError):
        return False
    kind = getattr(torch.distributed, "DistError", None)  # where torch has support for it
    return (kind is not None and isinstance(error, kind)) or any(
        sign in str(error) for sign in _LOST
    )


def _dead_worker(error: BaseException) -> str | None:
    """How a worker ended and what may help; None if none did.

    Torch says so by a signal handler; if it was just waiting for that worker, something else broke
    before, such as the connection to it.
    """
    found = _WORKER.search(str(error))
    if found is not None:
        how = found[2]
    else:
        codes = [worker.exitcode for worker in _workers(error)]
        code = next((code for code in codes if code not in _ENDED), None)
        if code is None:
            return None
        how = f"exited unexpectedly with exit code {code}"
        if code < 0:
            how = f"is killed by signal: {signal.strsignal(-code)}"
    if "signal" in how and "Killed" not in how and "Terminated" not in how:
        return (
            f"{how}: a library that it uses crashed, on a damaged sample perhaps; "
            "--data.init_args.num_workers 0 shows where."
        )
    return f"{how}. Most likely the machine has too little memory for so many: try {_FEWER}."


def _workers(error: BaseException) -> Iterator[BaseProcess]:
    """The processes of the loaders that an error has passed through."""
    for one in _chain(error):
        for frame, _ in traceback.walk_tb(one.__traceback__):
            workers = getattr(frame.f_locals.get("self"), "_workers", None)
            for worker in workers if isinstance(workers, list) else ():
                if isinstance(worker, BaseProcess):
                    worker.join(1)
                    yield worker


def first_line(error: BaseException) -> str:
    """What an error says, without the traceback of the worker that it came from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1 if lines[0].startswith("Caught ") else 0].rstrip(".:")
