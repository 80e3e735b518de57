"""Python processes that start at once: forks of a server that has imported torch and lightning.

An interpreter takes ten seconds to import them. The server imports them once, at the first request,
and forks a child per `Process`. The child behaves like `python -m MODULE WORDS`: it has its own
arguments, working directory, environment, streams, session and signal handlers. All workers of a
test run share one server. It stops, and kills its children, when the test run ends or is killed.
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
ADDRESS = "LIT_CASCADE_TEST_SERVER"
"""Environment variable with the path of the server's socket."""

LAZY = (
    "matplotlib.backends.backend_agg", "matplotlib.figure", "sklearn.datasets",
    "sklearn.model_selection", "tests.hazards", "tests.toys",
)  # fmt: skip
"""Modules that commands import when they need them."""

_servers = []


class Process:
    """Run a Python module in a process of its own, with an interface like `subprocess.Popen`.

    Args:
        module: name of the module.
        *words: its arguments.
        cwd: working directory.
        env: all environment variables. OMP_NUM_THREADS sets the number of threads of torch.
        stdout: open file to write to. By default, output is discarded.
        stderr: the same for standard error.
    """

    def __init__(self, module, *words, cwd, env, stdout=None, stderr=None):
        self._connection = socket.socket(socket.AF_UNIX)
        with open(os.devnull, "r+b") as null, tempfile.TemporaryFile("w+") as request:  # noqa: PTH123
            json.dump([module, [str(word) for word in words], str(cwd), env], request)
            request.seek(0)
            files = (null, stdout or null, stderr or null, request)
            self._connection.connect(address())
            socket.send_fds(self._connection, [b"r"], [file.fileno() for file in files])
            self.pid = self._receive(None)
        self.returncode = None

    def _receive(self, timeout):
        self._connection.settimeout(timeout)
        try:
            answer = self._connection.recv(4)
        except ConnectionError:
            answer = b""
        if not answer:
            log = Path(address()).with_name("log")
            reason = log.read_text() if log.exists() else ""
            raise RuntimeError(f"the server of {__name__} has stopped\n{reason}")
        return struct.unpack("i", answer)[0]

    def wait(self, timeout=None):
        """Wait for the exit code, and raise TimeoutExpired after `timeout` seconds without one."""
        if self.returncode is None:
            try:
                status = self._receive(timeout)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired([], timeout) from None
            self.returncode = os.waitstatus_to_exitcode(status)
            self._connection.close()
        return self.returncode

    def poll(self):
        """Return the exit code, or None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)

    def send_signal(self, number, *, group=False):
        """Send a signal to the process, or to its whole group, if the process still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.pid, number)

    def group_lives(self):
        """Return whether any process of the group is left."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


def address():
    """Return the path of the server's socket, and start a server if there is none."""
    if ADDRESS not in os.environ:
        start()
    return os.environ[ADDRESS]


def start(*, bare=False):
    """Start a server. It imports everything at the first request, or nothing if it is `bare`."""
    path = Path(tempfile.mkdtemp(prefix="forks-"), "socket")
    with socket.socket(socket.AF_UNIX) as listener, path.with_name("log").open("wb") as log:
        listener.bind(str(path))
        listener.listen(64)
        # threads do not survive a fork
        env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        env.pop("PYTHONPATH", None)  # the package is imported from the working directory
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), *["bare"] * bare],
            cwd=ROOT, env=env, pass_fds=[listener.fileno()], start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip
    os.environ[ADDRESS] = str(path)
    _servers.append(server)


def stop():
    """Stop the servers that this process has started, and their children."""
    while _servers:
        server = _servers.pop()
        server.stdin.close()
        server.wait()
        # a server that has failed leaves its log
        shutil.rmtree(Path(os.environ.pop(ADDRESS)).parent, ignore_errors=True)


def _preload():
    """Import what commands need, without starting threads."""
    import torch

    import lit_cascade

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(lit_cascade.__path__, "lit_cascade."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in LAZY:
        importlib.import_module(name)


class _Server:
    """Fork a child per request and report how it ends."""

    def __init__(self, listener):
        self.listener = listener
        self.running = {}  # connection: process number
        self.wakeup, self.signalled = os.pipe()
        os.set_blocking(self.signalled, False)
        signal.set_wakeup_fd(self.signalled)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self):
        """Serve requests until standard input closes, as the process that started the server ends.

        In a child, return the files of its request.
        """
        while True:
            ready, *_ = select.select([0, self.wakeup, self.listener, *self.running], [], [])
            if 0 in ready:
                self.stop()
            if self.wakeup in ready:
                self.report()
            for connection in set(ready) & self.running.keys():  # closed by a client that has ended
                self.kill(connection)
            if self.listener in ready and (files := self.fork()):
                return files

    def stop(self):
        for connection in list(self.running):
            self.kill(connection)
        shutil.rmtree(Path(self.listener.getsockname()).parent)
        os._exit(0)

    def kill(self, connection):
        pid = self.running.pop(connection)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)  # it may have no group of its own yet
        os.waitpid(pid, 0)
        connection.close()

    def report(self):
        os.read(self.wakeup, 1000)
        for connection, pid in list(self.running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with contextlib.suppress(ConnectionError), connection:
                    connection.send(struct.pack("i", status))
                del self.running[connection]

    def fork(self):
        connection, _ = self.listener.accept()
        _, files, *_ = socket.recv_fds(connection, 1, 4)
        if not files:  # the client has ended
            connection.close()
            return None
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
        os.close(self.wakeup)
        os.close(self.signalled)
        return files


def _become(files, path):
    """Turn a child of the server into a new interpreter, and return its module and words."""
    for number in (0, 1, 2):
        os.dup2(files[number], number)
        os.close(files[number])
    with os.fdopen(files[3]) as request:
        module, words, cwd, env = json.load(request)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *path]
    if env.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    random.seed()
    if "ray._raylet" in sys.modules:  # it has read the variables of the server
        sys.modules["ray._raylet"].Config.initialize("")
    if "torch" in sys.modules:
        sys.modules["numpy"].random.seed()
        threads = int(env.get("OMP_NUM_THREADS") or os.cpu_count())
        sys.modules["torch"].set_num_threads(threads)
    return module, words


def _exit_code(module):
    """Run a module and return the exit code that an interpreter would have."""
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
    os._exit(code & 0xFF)  # the finalization of an interpreter takes half a second


if __name__ == "__main__":
    _main()
