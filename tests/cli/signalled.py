"""Commands in processes of their own that a signal ends.

python -m tests.cli.signalled FUNCTION COUNT WORDS... is a command that kills itself: see `Ending`.
"""

import os
import pkgutil
import signal
import sys
import time
from dataclasses import dataclass, field
from unittest import mock

from lit_cascade.cli import main
from tests.cli.runs import outputs, text, variables
from tests.forks import Process

PATIENCE = 60


@dataclass
class Ending:
    """A command and the signal that ends it.

    Args:
        words: of the command.
        seen: pattern of files. The signal is sent when `count` of them exist.
        count: number of files, or of calls of `at`.
        number: of the signal.
        group: whether the signal goes to all processes of the group, as from a terminal.
        at: name of a function. If given, the process kills itself at the call of that number,
            instead.
        environment: additional environment variables.
    """

    words: list[str]
    seen: str = ""
    count: int = 1
    number: int = signal.SIGINT
    group: bool = False
    at: str = ""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Ended:
    """Exit code, output, whether a process is left, and seconds from the signal to the end."""

    code: int | None
    out: str
    err: str
    left: bool
    seconds: float


def end(ending: Ending, folder) -> Ended:
    """Run a command and end it."""
    run = ["tests.cli.signalled", ending.at, ending.count] if ending.at else ["lit_cascade"]
    env = variables(ending.environment)
    with outputs() as (out, err):
        process = Process(*run, *ending.words, cwd=folder, env=env, stdout=out, stderr=err)
        deadline = time.monotonic() + PATIENCE
        while ending.seen and process.poll() is None and time.monotonic() < deadline:
            if len(list(folder.glob(ending.seen))) >= ending.count:
                process.send_signal(ending.number, group=ending.group)
                break
            time.sleep(0.002)
        start = time.monotonic()
        code = process.wait(PATIENCE)
        seconds = time.monotonic() - start
        deadline = time.monotonic() + 15
        while process.group_lives() and time.monotonic() < deadline:
            time.sleep(0.05)
        left = process.group_lives()
        if left:
            os.killpg(process.pid, signal.SIGKILL)
        return Ended(code, text(out), text(err), left, seconds)


def kill_at(function, count):
    """Let the process kill itself at a call of a function, counted from 1."""
    owner, name = function.rsplit(".", 1)
    kept, calls = getattr(pkgutil.resolve_name(owner), name), []

    def kill(*arguments, **options):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return kept(*arguments, **options)

    mock.patch(function, kill).start()


if __name__ == "__main__":
    kill_at(sys.argv[1], int(sys.argv[2]))
    del sys.argv[1:3]
    sys.exit(main())
