"""Commands in processes that are forked when everything is imported, and what ends them there.

python -m tests.cli.signalled JSON, a list of `Ending`s; prints a list of what came of each.
"""

import importlib
import json
import multiprocessing
import os
import pkgutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest import mock

from lit_cascade.cli import main

PATIENCE = 60


@dataclass
class Ending:
    """A command and its end.

    Args:
        words: of the command.
        seen: files, as a pattern; a signal is sent when there are `count`.
        count: so many.
        number: of the signal.
        group: whether it goes to all processes of the group, as from a terminal.
        at: instead of all that, a function: as it is called for the so manyth time, the process
            kills itself.
        environment: variables.
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
    """What came of it: exit code, what was said, whether any process is left, and the time."""

    code: int | None
    out: str
    err: str
    left: bool
    seconds: float


def _work(ending: Ending, out: str, err: str) -> None:
    os.setsid()
    # a shell that started the tests in the background has had it ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for path, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ |= ending.environment
    sys.argv = ["lit-cascade"]
    if ending.at:
        owner, name = ending.at.rsplit(".", 1)
        kept, calls = getattr(pkgutil.resolve_name(owner), name), []

        def kill(*arguments, **options):
            calls.append(1)
            if len(calls) == ending.count:
                os.kill(os.getpid(), signal.SIGKILL)
            return kept(*arguments, **options)

        mock.patch(ending.at, kill).start()
    sys.exit(main(ending.words))


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def end(ending: Ending) -> Ended:
    """Run a command to that end."""
    out, err = "out.txt", "err.txt"
    process = multiprocessing.get_context("fork").Process(target=_work, args=(ending, out, err))
    process.start()
    start = deadline = time.monotonic()
    deadline += PATIENCE
    while ending.seen and process.is_alive() and time.monotonic() < deadline:
        if len(list(Path().glob(ending.seen))) >= ending.count:
            (os.killpg if ending.group else os.kill)(process.pid, ending.number)
            break
        time.sleep(0.002)
    start = time.monotonic()
    process.join(PATIENCE)
    seconds = time.monotonic() - start
    time.sleep(0.1)
    deadline = time.monotonic() + 15
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = _alive(process.pid)
    if left:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    code, said, complained = process.exitcode, Path(out).read_text(), Path(err).read_text()
    return Ended(code, said, complained, left, seconds)


if __name__ == "__main__":
    importlib.import_module("lit_cascade.cli.lightning")
    endings = [Ending(**one) for one in json.loads(sys.argv[1])]
    sys.stdout.write(json.dumps([asdict(end(one)) for one in endings]))
