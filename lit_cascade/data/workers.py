"""How a worker that loads samples behaves where the run is interrupted."""

from __future__ import annotations

import signal
import sys
import threading
from types import TracebackType

from torch.utils.data import get_worker_info

__all__ = ["leave_interrupts"]


def leave_interrupts() -> None:
    """In a worker: leave an interrupt to the main process, which then ends its workers.

    A terminal interrupts all of them at once, and each would say so, or look like one that died.
    Nor is it news to a worker that the main process has stopped to listen.
    """
    if get_worker_info() is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.excepthook = _unless_unheard  # which a thread that hands samples over calls, too


def _unless_unheard(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
