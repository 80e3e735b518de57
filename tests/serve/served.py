"""A server in a process of its own, and requests to it; every wait has an end."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.runs import free_port, outputs, text, variables
from tests.forks import Process

START, END = 120, 60
"""Seconds within which a server has started, and has ended."""


class Server:
    """A running server."""

    def __init__(self, process, port, err):
        self.process, self.port, self._err = process, port, err

    @property
    def said(self):
        return text(self._err)

    def ask(self, method, path, body=None, *, timeout=20, **headers):
        """Status, headers and decoded body of one request."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, (bytes, str)):
            body, headers = json.dumps(body), {"content-type": "application/json"} | headers
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            got = connection.getresponse()
            content = got.read()
        finally:
            connection.close()
        if "json" in got.headers.get("content-type", ""):
            content = json.loads(content)
        return got.status, got.headers, content

    def predict(self, body, **options):
        """Status and answer."""
        status, _, content = self.ask("POST", "/predict", body, **options)
        return status, content

    def predict_all(self, bodies, clients=32, **options):
        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(lambda body: self.predict(body, **options), bodies))

    def until_ready(self, seconds=START):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.said
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/readyz", timeout=5)[0] == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(f"not ready within {seconds} s.\n{self.said}")

    def families(self):
        """What is exposed to Prometheus."""
        return list(text_string_to_metric_families(self.ask("GET", "/metrics")[2].decode()))

    def counted(self, name, **labels):
        """Sum of a metric over all series with these labels."""
        samples = (sample for family in self.families() for sample in family.samples)
        return sum(
            s.value for s in samples if s.name == name and labels.items() <= s.labels.items()
        )

    def workers(self):
        """Processes of the stages, in their order: those that were spawned."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        spawned = [one for one in children if "spawn_main" in " ".join(one.cmdline())]
        return sorted(spawned, key=lambda one: one.create_time())

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def ended(self, seconds=END):
        """Exit code; a server that does not end fails the test."""
        return self.process.wait(seconds)


@contextlib.contextmanager
def serving(*words, cwd, module="lit_cascade", **environment):
    """A server of `lit-cascade serve`, or of another module that takes `--port`."""
    port = free_port()
    command = ["serve", *words] if module == "lit_cascade" else list(words)
    with running(module, *command, "--port", port, port=port, cwd=cwd, **environment) as server:
        server.until_ready()
        yield server


@contextlib.contextmanager
def running(module, *words, port, cwd, **environment):
    """A process that serves at a port, perhaps not yet."""
    with outputs() as (out, err):
        process = Process(
            module, *map(str, words), cwd=cwd, env=variables(environment), stdout=out, stderr=err
        )
        server = Server(process, port, err)
        try:
            yield server
        finally:
            family = []
            with contextlib.suppress(psutil.NoSuchProcess):
                family = server.family()
            process.send_signal(signal.SIGKILL, group=True)
            process.wait()
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
