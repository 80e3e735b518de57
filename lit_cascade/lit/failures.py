"""Failures of the machine during a loop, as one error that says what would work.

If the kernel kills a worker, memory runs out or a process is lost, torch raises a RuntimeError
anywhere in the program, or whatever breaks first raises an error of its own.
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
from typing import Any

import torch
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.memory import is_oom_error

from lit_cascade.errors import CascadeError

_FEWER = "fewer of them (--data.init_args.num_workers) or smaller batches"
_SMALLER = "smaller batches (--data.init_args.batch_size)"
_ALLOCATION = ("out of memory", "can't allocate memory", "_ALLOC_FAILED", "Unable to allocate")
_SHARED = ("Bus error", "shared memory", "</torch_")
_LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
_WORKER = re.compile(r"DataLoader worker \(pid (\d+)\) (.*?)(?:\. Details|\. It is|\.? *$)")
_PORT = re.compile(r"port: (\d+).*EADDRINUSE", re.DOTALL)
_ENDED = (None, 0, -signal.SIGTERM)  # exit codes of workers that ended as they should


class Signals(_SignalConnector):
    """A Trainer's signals: SIGTERM is passed on to the processes that this one has started.

    Lightning's own also broadcasts it within the signal handler, where the others may be in another
    collective, so that all of them wait for each other.
    """

    received = False
    """Whether SIGTERM has reached this process."""

    def register_signal_handlers(self) -> None:
        """Begin to listen."""
        Signals.received = False
        super().register_signal_handlers()

    def _sigterm_notifier_fn(self, signum: Any, _: Any) -> None:
        launcher: Any = self.trainer.strategy.launcher
        if launcher is not None and not self.received_sigterm:
            launcher.kill(signum)
        self.received_sigterm = Signals.received = True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of a GPU or of the machine ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or is_oom_error(error):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATION)


@contextmanager
def explained(then: str = "") -> Iterator[None]:
    """Turn failures of the machine into one clear error; other errors pass unchanged.

    Args:
        then: what to do next, to end the message with.

    Raises:
        CascadeError: a worker died, memory ran out, or another process was lost.
        KeyboardInterrupt: an interrupt caused the error.
        SIGTERMException: SIGTERM has ended another process, which this one was waiting for.
    """
    try:
        with _silent_deaths():
            yield
    except (RuntimeError, MemoryError, OSError, EOFError, pickle.UnpicklingError) as error:
        if any(isinstance(one, KeyboardInterrupt) for one in _chain(error)):
            raise KeyboardInterrupt from error  # it broke whatever was in progress
        if _WORKER.search(str(error)):
            for one in _chain(error):
                if isinstance(one, CascadeError):
                    # told already: torch's signal handler has interrupted it on its way out
                    raise one from one.__cause__
        if Signals.received and _is_lost_process(error):
            raise SIGTERMException from error
        try:
            message = _message(error)
        except RuntimeError as late:  # from torch's signal handler, which only now saw the worker
            message = _message(late)
        if message is None:
            raise
        raise CascadeError(f"{message} {then}".strip()) from error


@contextmanager
def _silent_deaths() -> Iterator[None]:
    """Keep Python from printing the death of a worker while it finalises a loader."""
    before = sys.unraisablehook

    def hook(error: sys.UnraisableHookArgs) -> None:
        if _WORKER.search(str(error.exc_value)) is None:
            before(error)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _message(error: BaseException) -> str | None:
    """Message for a failure of the machine; None for other errors."""
    text, dead = str(error), _dead_worker(error)
    message = None
    if any(sign in f"{text} {dead}" for sign in _SHARED):
        message = (
            "the shared memory through which workers pass samples is full. Give it more "
            f"(/dev/shm; in a container --shm-size), or try {_FEWER}."
        )
    elif dead is not None:
        message = f"a process that loads samples {dead}"
    elif "Too many open files" in text:
        message = f"{first_line(error)}: raise the limit with `ulimit -n`, or try {_FEWER}."
    elif is_out_of_memory(error):
        message = f"out of memory: {first_line(error)}: try {_SMALLER}."
    elif port := _PORT.search(text):
        message = (
            f"the port {port[1]}, at which the processes of this run meet, is in use: set "
            "MASTER_PORT to a free one (--master-port of torchrun), or on one machine leave it out."
        )
    elif _is_lost_process(error):
        message = (
            f"another process of this run was lost, or cannot be reached ({first_line(error)}). "
            "Its own error, if any, is above. If there is none it was killed, often for memory."
        )
    return message


def _is_lost_process(error: BaseException) -> bool:
    """Whether an error is about another process of the run."""
    if not isinstance(error, RuntimeError):
        return False
    kind = getattr(torch.distributed, "DistError", None)  # absent from some builds of torch
    return (kind is not None and isinstance(error, kind)) or any(
        sign in str(error) for sign in _LOST
    )


def _dead_worker(error: BaseException) -> str | None:
    """How a worker died and what may help; None if none did.

    Usually torch's signal handler reports it. While torch waits for the worker something else may
    break first, such as the connection to it.
    """
    match = _WORKER.search(str(error))
    if match is not None:
        how = match[2]
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
            f"{how}: a library that it uses crashed, perhaps on a damaged sample; "
            "--data.init_args.num_workers 0 shows where."
        )
    return f"{how}. Most likely the machine has too little memory for so many: try {_FEWER}."


def _workers(error: BaseException) -> Iterator[BaseProcess]:
    """Worker processes of the loaders in an error's traceback."""
    for one in _chain(error):
        for frame, _ in traceback.walk_tb(one.__traceback__):
            workers = getattr(frame.f_locals.get("self"), "_workers", None)
            for worker in workers if isinstance(workers, list) else ():
                if isinstance(worker, BaseProcess):
                    worker.join(1)
                    yield worker


def first_line(error: BaseException) -> str:
    """Message of an error, without the traceback of the worker that it came from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1 if lines[0].startswith("Caught ") else 0].rstrip(".:")
