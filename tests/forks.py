"""Processes that start at once: forks of one that has imported torch, lightning and lit_cascade.

An interpreter takes ten seconds to import them, `Process` none: a server does it once, when the
first process is asked for, and forks. The child is what `python -m MODULE WORDS` would be, with
arguments, folder, environment, streams, session and signal handlers of its own. Its parent is the
server, which tells how it ended. All workers of a test run share one server; it ends with the run,
however that ends, and takes its children with it.
"""

import atexit
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = "LIT_CASCADE_TEST_SERVER"
"""The environment variable that tells workers the socket of the server."""

LAZY = ("sklearn.datasets", "sklearn.model_selection", "tests.hazards", "tests.toys")
"""What commands import on their way, besides the package."""

_servers = []


class Process:
    """A Python module run with words as its arguments; `subprocess.Popen`, as far as tests need it.

    Args:
        module: name of the module.
        *words: its arguments.
        cwd: working directory.
        env: all environment variables. Of OMP_NUM_THREADS, torch's number of threads is set.
        stdout: a file that is open for writing, by default none.
        stderr: likewise.
    """

    def __init__(self, module, *words, cwd, env, stdout=None, stderr=None):
        request = [module, [str(word) for word in words], str(cwd), env]
        self._server = socket.socket(socket.AF_UNIX)
        with open(os.devnull, "r+b") as null, tempfile.TemporaryFile("w+") as told:  # noqa: PTH123
            json.dump(request, told)
            told.seek(0)
            files = (null, stdout or null, stderr or null, told)
            self._server.connect(place())
            socket.send_fds(self._server, [b"r"], [file.fileno() for file in files])
            self.pid = self._receive(None)
        self.returncode = None

    def _receive(self, timeout):
        self._server.settimeout(timeout)
        answer = self._server.recv(4)
        if not answer:
            log = Path(place()).with_name("log")
            said = log.read_text() if log.exists() else ""
            raise RuntimeError(f"the server of {__name__} has ended\n{said}")
        return struct.unpack("i", answer)[0]

    def wait(self, timeout=None):
        """Return the exit code, after `timeout` seconds at most; else raise TimeoutExpired."""
        if self.returncode is None:
            try:
                status = self._receive(timeout)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired([], timeout) from None
            self.returncode = os.waitstatus_to_exitcode(status)
            self._server.close()
        return self.returncode

    def poll(self):
        """Return the exit code, or None while there is none."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)

    def send_signal(self, number, *, group=False):
        """Send a signal to the process, or to its group, if it is still there."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.pid, number)

    def group_lives(self):
        """Whether any process of the group is left."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


def place():
    """The socket of a server, which is started if there is none."""
    if PLACE not in os.environ:
        start()
    return os.environ[PLACE]


def start(*, bare=False):
    """Start a server, which imports nothing before it is asked for a process, or never."""
    path = Path(tempfile.mkdtemp(prefix="forks-"), "socket")
    with socket.socket(socket.AF_UNIX) as listener, path.with_name("log").open("wb") as log:
        listener.bind(str(path))
        listener.listen(64)
        # more than one thread would not survive the fork
        env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        env.pop("PYTHONPATH", None)  # the package is that of the working directory
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), *["bare"] * bare],
            cwd=ROOT, env=env, pass_fds=[listener.fileno()], start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip
    os.environ[PLACE] = str(path)
    _servers.append(server)


def stop():
    """Stop the servers that this process has started, and all that they have."""
    while _servers:
        del os.environ[PLACE]
        server = _servers.pop()
        server.stdin.close()
        server.wait()


def _preload():
    """Import what commands need, without threads."""
    import torch

    import lit_cascade

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(lit_cascade.__path__, "lit_cascade."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in LAZY:
        importlib.import_module(name)


class _Server:
    """Forks a child for each request that comes through a socket."""

    def __init__(self, listener):
        self.listener = listener
        self.running = {}  # process of each connection
        self.woken, self.wake = os.pipe()
        os.set_blocking(self.wake, False)
        signal.set_wakeup_fd(self.wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self):
        """Serve until standard input ends, with the process that has started the server.

        Returns the files of a request in the child that is forked for it.
        """
        while True:
            ready, *_ = select.select([0, self.woken, self.listener, *self.running], [], [])
            if 0 in ready:
                self.end()
            if self.woken in ready:
                self.tell()
            for connection in set(ready) & self.running.keys():  # nobody waits for it any more
                self.kill(connection)
            if self.listener in ready and (files := self.fork()):
                return files

    def end(self):
        for connection in list(self.running):
            self.kill(connection)
        shutil.rmtree(Path(self.listener.getsockname()).parent)
        os._exit(0)

    def kill(self, connection):
        pid = self.running.pop(connection)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        connection.close()

    def tell(self):
        os.read(self.woken, 1000)
        for connection, pid in list(self.running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with contextlib.suppress(BrokenPipeError), connection:
                    connection.send(struct.pack("i", status))
                del self.running[connection]

    def fork(self):
        connection, _ = self.listener.accept()
        _, files, *_ = socket.recv_fds(connection, 1, 4)
        pid = os.fork()
        if pid:
            self.running[connection] = pid
            for file in files:
                os.close(file)
            return None
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.send(struct.pack("i", os.getpid()))
        for other in (self.listener, connection, *self.running):
            other.close()
        os.close(self.woken)
        os.close(self.wake)
        return files


def _become(files, path):
    """Make a child of the server as a new interpreter would be; return module and words."""
    for number in (0, 1, 2):
        os.dup2(files[number], number)
        os.close(files[number])
    with os.fdopen(files[3]) as told:
        module, words, cwd, env = json.load(told)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *path]
    if env.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    random.seed()
    if "torch" in sys.modules:
        sys.modules["numpy"].random.seed()
        threads = int(env.get("OMP_NUM_THREADS") or os.cpu_count())
        sys.modules["torch"].set_num_threads(threads)
    return module, words


def _exit_code(module):
    """Run a module, and return what the process ends with, as a whole interpreter would."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        return 1
    return 0


def _main():
    given = socket.socket(fileno=int(sys.argv[1]))
    select.select([0, given], [], [])
    if sys.argv[2:] != ["bare"]:
        _preload()
    gc.freeze()
    module, sys.argv[1:] = _become(_Server(given).serve(), sys.path[1:])
    code = _exit_code(module)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)  # to take everything down, as an interpreter does, takes half a second


if __name__ == "__main__":
    _main()
