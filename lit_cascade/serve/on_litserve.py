"""A cascade on LitServe: a LitAPI, a queue and workers of its own for each stage.

LitServe starts the processes, gives each worker its device, and runs the HTTP servers. Its own
queues know nothing of several stages, of a bound, of clients that have left, or of what a worker
held when it died: `StageQueues` takes their place, between a loop and a server of our own.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from multiprocessing import managers
from types import FrameType
from typing import Any

import litserve as ls
import torch
from fastapi import Depends, FastAPI
from litserve.loops.base import LitLoop

from lit_cascade.core import Policy
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.options import ServingOptions
from lit_cascade.serve.http import LEFT, add_routes
from lit_cascade.serve.inputs import Inputs, Query
from lit_cascade.serve.prometheus import FOLDER, Metrics
from lit_cascade.serve.queues import Done, Reply, StageQueues, Waiting
from lit_cascade.serve.stage import Outcome, Sample, StageRunner

_DEATHS, _WITHIN = 3, 120.0
"""Workers of one stage that may die within so many seconds before the server ends."""
_EVERY = 0.2


class _Manager(managers.SyncManager):
    """Process of the queues."""


_Manager.register(
    "StageQueues",
    StageQueues,
    exposed=(
        "offer", "exchange", "release", "drop", "replies", "ready", "fail", "drain", "state",
    ),
)  # fmt: skip


class _Stopped(BaseException):
    """A signal asks the server to end; not an error."""


def _end_with(parent: int) -> None:
    """End this process when the one that started it has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch over the parent").start()


def _leave_signals_to(parent: int) -> None:
    """In a worker: the server says when to end, as a terminal interrupts all processes at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_with(parent)


class StageAPI(ls.LitAPI):
    """One stage of a cascade, as LitServe starts it in a process.

    Args:
        runner: the stage.
        size: of a full batch.
        threads: CPU threads of a worker.
    """

    queues: Any = None

    def __init__(self, runner: StageRunner, size: int, threads: int) -> None:
        super().__init__(max_batch_size=size, api_path=f"/stages/{runner.number}", loop=StageLoop())
        self.runner, self.size, self.threads = runner, size, threads
        self.parent = os.getpid()

    def setup(self, device: str) -> None:
        """Move the stage to its device and measure a full batch."""
        _leave_signals_to(self.parent)
        torch.set_num_threads(self.threads)
        try:
            self.runner.to(device)
            seconds = self.runner.measure(self.size)
        except Exception as error:
            said = error if isinstance(error, CascadeError) else f"{type(error).__name__}: {error}"
            self.queues.fail(f"stage {self.runner.name!r} cannot start on {device}: {said}")
            raise
        number, costs = self.runner.number, self.runner.costs(seconds / self.size)
        self._metrics = Metrics(self.runner.names, self.runner.policy)
        self.queues.ready(worker_name(number, os.getpid()), number, seconds, costs)

    def predict(self, x: Sequence[Waiting], **kwargs: Any) -> Done:
        """Run the stage on a batch."""
        del kwargs
        start, started = time.perf_counter(), time.monotonic()
        audited = [one.audited or (None, None) for one in x]
        outcomes = self.runner(
            [
                Sample(one.input, one.top, one.before, answer)
                for one, (_, answer) in zip(x, audited, strict=True)
            ]
        )
        self._metrics.batch(
            self.runner.name,
            outcomes,
            [stage for stage, _ in audited],
            [started - one.since for one in x],
            time.perf_counter() - start,
        )
        return _sorted_out(x, outcomes)


def _sorted_out(batch: Sequence[Waiting], outcomes: Sequence[Outcome]) -> Done:
    """Replies, deferred samples and audits of a batch."""
    replies, deferred, audits = [], [], []
    for one, outcome in zip(batch, outcomes, strict=True):
        if one.audited is not None:
            continue
        if outcome.deferred:
            deferred.append(one._replace(before=outcome.carried, tries=0))
            continue
        body = outcome.body or {}
        replies.append(Reply(one.uid, one.client, outcome.status, body))
        if outcome.audit:
            answered = (str(body["stage"]), int(body["prediction"]))
            audits.append(one._replace(before=outcome.carried, audited=answered))
    return Done(replies, deferred, audits)


def worker_name(stage: int, pid: int | None) -> str:
    """Name of a worker, which no other has while the server runs."""
    return f"{stage}:{pid}"


class StageLoop(LitLoop):
    """Takes batches of a stage from the queues, and gives back what became of them."""

    def __call__(
        self,
        lit_api: StageAPI,
        device: str,
        worker_id: int,
        request_queue: Any,
        transport: Any,
        workers_setup_status: Any,
        callback_runner: Any,
    ) -> None:
        """Run until the process is ended, or the queues are gone."""
        del device, worker_id, transport, workers_setup_status, callback_runner
        stage = lit_api.runner.number
        name, done = worker_name(stage, os.getpid()), None
        while True:
            try:
                batch = request_queue.exchange(name, stage, done)
            except (EOFError, ConnectionError):
                return  # the server has ended
            done = lit_api.predict(batch) if batch else None


class Front:
    """The side of the queues in a process that takes requests.

    Args:
        queues: of all stages.
        client: number of the process among those that take requests.
        timeout: seconds that a request waits for its answer.
    """

    def __init__(self, queues: Any, client: int, timeout: float) -> None:
        self._queues, self._client, self._timeout = queues, client, timeout
        self._loop = asyncio.get_running_loop()
        self._pending: dict[str, asyncio.Future[Reply]] = {}
        self._new: list[Waiting] = []
        self._numbers = itertools.count()
        self._state: tuple[float, dict[str, Any]] = (-1.0, {})
        self._broken = ""
        threading.Thread(target=self._receive, daemon=True, name="replies").start()

    def close(self) -> None:
        """Read no more replies."""
        self._broken = self._broken or "the server is ending."

    def _receive(self) -> None:
        while not self._broken:
            try:
                found = self._queues.replies(self._client)
            except (EOFError, ConnectionError):
                found, self._broken = [], "the server is ending."
            if found or self._broken:
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._resolve, found)

    def _resolve(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            future = self._pending.pop(reply.uid, None)
            if future is not None and not future.done():
                future.set_result(reply)
        if self._broken:
            for uid, future in list(self._pending.items()):
                self._pending.pop(uid)
                if not future.done():
                    future.set_result(Reply(uid, self._client, 503, {"error": self._broken}))

    def _flush(self) -> None:
        """Offer the samples that came in since the last time, in one call."""
        new, self._new = self._new, []
        try:
            taken = self._queues.offer(new)
        except (EOFError, ConnectionError):
            taken = 0
        self._resolve(
            [
                Reply(one.uid, one.client, 503, {"error": "too many requests wait."})
                for one in new[taken:]
            ]
        )

    async def answer(self, queries: Sequence[Query], left: asyncio.Future[Any]) -> list[Reply]:
        """Replies to some samples, in order.

        Args:
            queries: the samples.
            left: done when the client has left.
        """
        futures = []
        for query in queries:
            uid = f"{self._client}.{next(self._numbers)}"
            if not self._new:
                self._loop.call_soon(self._flush)
            self._new.append(Waiting(uid, self._client, query.input, query.top))
            self._pending[uid] = self._loop.create_future()
            futures.append((uid, self._pending[uid]))
        whole = asyncio.gather(*(future for _, future in futures))
        try:
            await asyncio.wait(
                {whole, left}, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            lost = [uid for uid, future in futures if not future.done()]
            if lost:
                for uid in lost:
                    self._pending.pop(uid, None)
                self._queues.drop(lost)
        status = LEFT if left.done() else 504
        late = {"error": f"no answer within {self._timeout:g} s."}
        replies = [
            future.result() if future.done() else Reply(uid, self._client, status, late)
            for uid, future in futures
        ]
        whole.cancel()
        return replies

    def state(self) -> dict[str, Any]:
        """State of the queues, at most half a second old.

        Raises:
            ConnectionError: the queues are gone.
        """
        if time.monotonic() - self._state[0] > 0.5:
            self._state = (time.monotonic(), self._queues.state())
        return self._state[1]


class CascadeServer(ls.LitServer):
    """A LitServer of the stages of a cascade.

    Args:
        runners: the stages, cheapest first.
        options: how they are served.
    """

    def __init__(self, runners: Sequence[StageRunner], options: ServingOptions) -> None:
        names = runners[0].names
        self.runners, self.options, self.names = list(runners), options, names
        self.policy: Policy = runners[0].policy
        self._sizes = options.by_stage("batch_size", names)
        self._waits = options.by_stage("wait", names)
        workers = options.by_stage("workers", names)
        devices = options.by_stage("devices", names)
        self._places: list[list[str]] = [
            _devices(given, k) * count
            for k, (given, count) in enumerate(zip(devices, workers, strict=True))
        ]
        total = sum(map(len, self._places))
        threads = options.threads or max(1, (os.cpu_count() or 1) // total)
        apis = [
            StageAPI(runner, size, threads)
            for runner, size in zip(runners, self._sizes, strict=True)
        ]
        self._deaths: dict[int, list[float]] = {}
        self._failure, self._ending, self._pid = "", False, os.getpid()
        self._front: Front | None = None
        self._metrics: Metrics | None = None
        super().__init__(apis, accelerator="cpu", timeout=False, restart_workers=True)
        self.app.title = "lit-cascade"
        self.app.description = f"Cascade of {', '.join(names)}."
        self.uvicorn_graceful_timeout = int(options.timeout) + 1

    def serve(self) -> None:
        """Serve until a signal ends it; requests that were accepted by then are answered.

        Raises:
            UsageError: the port is taken.
            CascadeError: a stage cannot start, or its workers die again and again.
        """
        options = self.options
        _check_port(options.host, options.port)
        self._pid = os.getpid()
        others = set(multiprocessing.active_children())
        before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        folder, given = tempfile.mkdtemp(prefix="lit-cascade-"), os.environ.get(FOLDER)
        os.environ[FOLDER] = folder
        try:
            with suppress(_Stopped):
                self.run(
                    host=options.host,
                    port=options.port,
                    num_api_servers=options.http_workers,
                    log_level="warning",
                    generate_client_file=False,
                )
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for child in set(multiprocessing.active_children()) - others:
                child.kill()  # a signal came before all had started: this process would wait for it
            os.environ.pop(FOLDER)
            os.environ.update({} if given is None else {FOLDER: given})
            shutil.rmtree(folder, ignore_errors=True)
        if self._failure:
            raise CascadeError(self._failure)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if os.getpid() != self._pid:  # a process of ours that has not yet its own handler
            os._exit(0)
        if not self._ending:
            self._ending = True
            raise _Stopped

    # What LitServe calls, in this order.

    def register_endpoints(self) -> None:
        """Add the public routes; those of the single stages are not among them."""
        api = self.litapi_connector.lit_apis[0]
        add_routes(self.app, self, [Depends(self.setup_auth(api))])

    def _init_manager(self, num_api_servers: int) -> Any:
        manager = _Manager()
        manager.start(_leave_signals_to, (os.getpid(),))
        self._manager = manager
        self.inference_workers: list[Any] = []
        self.workers_setup_status = manager.dict()
        self._shutdown_event = threading.Event()
        self._transport = _NoTransport()
        queues = manager.StageQueues(  # type: ignore[attr-defined] # registered above
            self._sizes,
            self._waits,
            [len(places) for places in self._places],
            num_api_servers,
            self.options.queue_size,
        )
        self.queues = queues
        for api in self.litapi_connector:
            api.queues = queues
            self.litapi_request_queues[api.api_path] = queues
        return manager

    def _inference_workers_config_for_api(self, api_path: str) -> list[str]:
        return self._places[_number_of(api_path)]

    def verify_worker_status(self) -> None:
        """Wait until every worker takes samples.

        Raises:
            CascadeError: one cannot.
        """
        try:
            self._wait_for_workers()
        except BaseException:
            self._perform_graceful_shutdown(self._manager, {})
            raise

    def _wait_for_workers(self) -> None:
        wanted = list(map(len, self._places))
        while True:
            state = self.queues.state()
            dead = [worker for worker in self.inference_workers if not worker.is_alive()]
            if state["failure"] or dead:
                time.sleep(0.2)  # it may still say why
                why = self.queues.state()["failure"]
                raise CascadeError(why or "a worker died while it started: is memory short?")
            if state["ready"] == wanted:
                return
            time.sleep(0.05)

    def _start_worker_monitoring(self, manager: Any, uvicorn_workers: Mapping[Any, Any]) -> None:
        del manager
        thread = threading.Thread(
            target=self._supervise, args=(uvicorn_workers,), daemon=True, name="supervisor"
        )
        thread.start()
        self.announce()

    def announce(self) -> None:
        """Say where the server listens and how long batches wait."""
        seconds = self.queues.state()["seconds"]
        waits = ", ".join(
            f"{name} {1000 * wait:.3g} ms" for name, wait in zip(self.names, seconds, strict=True)
        )
        host, port = self.options.host, self.options.port
        sys.stderr.write(
            f"Serving {' -> '.join(self.names)} on http://{host}:{port}, with a page to try it on "
            f"at /docs. Batches wait at most: {waits}.\n"
        )

    def _supervise(self, servers: Mapping[Any, Any]) -> None:
        """Start workers again that died, and end the server where that does not help."""
        while not self._ending:
            try:
                self._look_after(servers)
            except (EOFError, ConnectionError, OSError):
                self._fail("the process of the queues has ended.")
            if self._failure:
                return
            time.sleep(_EVERY)

    def _look_after(self, servers: Mapping[Any, Any]) -> None:
        if not all(server.is_alive() for server in servers.values()):
            self._fail("a process that takes requests has ended.")
            return
        for number, worker in enumerate(self.inference_workers):
            if worker.is_alive() or self._ending:
                continue
            stage, place = self._stage_of(number)
            self.queues.release(worker_name(stage, worker.pid))
            failure = self.queues.state()["failure"]
            now = time.monotonic()
            deaths = [at for at in self._deaths.get(stage, []) if now - at < _WITHIN] + [now]
            self._deaths[stage] = deaths
            how = f"a worker of stage {self.names[stage]!r} ended with code {worker.exitcode}"
            if failure or len(deaths) > _DEATHS:
                self._fail(failure or f"{how}; {len(deaths)} have died within {_WITHIN:.0f} s.")
                return
            sys.stderr.write(f"Warning: {how}; another one starts.\n")
            api = self.litapi_connector.lit_apis[stage]
            self.inference_workers[number] = self.launch_single_inference_worker(api, place)

    def _stage_of(self, number: int) -> tuple[int, int]:
        """Stage of a worker, and its number there."""
        for stage, places in enumerate(self._places):
            if number < len(places):
                return stage, number
            number -= len(places)
        raise IndexError(number)

    def _fail(self, reason: str) -> None:
        if not self._ending:
            self._failure = reason
            self._ending = True
            self._shutdown_event.set()

    def _perform_graceful_shutdown(
        self, manager: Any, uvicorn_workers: Mapping[Any, Any], shutdown_reason: str = "normal"
    ) -> None:
        """End what takes requests, once these are answered; then the workers; then the queues."""
        del shutdown_reason
        self._ending = True
        with suppress(EOFError, ConnectionError, OSError):
            if self._failure:
                self.queues.fail(self._failure)
            self.queues.drain()
        for server in uvicorn_workers.values():
            server.terminate()
        for server in uvicorn_workers.values():
            server.join(0.5 if self._failure else self.uvicorn_graceful_timeout)
            if server.is_alive():
                server.kill()
        for worker in self.inference_workers:
            worker.kill()
        for worker in self.inference_workers:
            worker.join(5)
        manager.shutdown()

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Connect a process that takes requests with the queues."""
        _end_with(self._pid)
        self._metrics = Metrics(self.names, self.policy)
        client = app.response_queue_id  # type: ignore[attr-defined] # set by LitServe
        self._front = Front(self.queues, client, self.options.timeout)
        yield
        self._front.close()

    # What the routes ask for.

    @property
    def kind(self) -> Inputs:
        """What requests hold."""
        return self.runners[0].kind

    @property
    def front(self) -> Front:
        """The queues, as this process sees them."""
        if self._front is None:
            raise CascadeError("the server has not started.")
        return self._front

    async def answer(self, queries: Sequence[Query], left: asyncio.Future[Any]) -> list[Reply]:
        """Replies to some samples; see `Front.answer`."""
        return await self.front.answer(queries, left)

    @property
    def metrics(self) -> Metrics:
        """Counts of this process."""
        if self._metrics is None:
            raise CascadeError("the server has not started.")
        return self._metrics

    def state(self) -> dict[str, Any]:
        """State of the queues; see `StageQueues.state`."""
        return self.front.state()


class _NoTransport:
    """Takes the place of LitServe's way for answers: `StageQueues` holds them."""

    def close(self, **_: Any) -> None:
        """Do nothing."""


def _number_of(api_path: str) -> int:
    return int(api_path.rsplit("/", maxsplit=1)[1])


def _devices(given: str | None, stage: int) -> list[str]:
    """Devices of a stage; LitServe takes apart a name of one letter, and there is none."""
    if given:
        devices = [one.strip() for one in given.split(",")]
        for one in devices:
            try:
                torch.device(one)
            except RuntimeError:
                raise UsageError(
                    f"devices: expected names such as cpu or cuda:0, got {one!r}."
                ) from None
        return devices
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{stage % count}"] if count else ["cpu"]


def _check_port(host: str, port: int) -> None:
    """Check that a port can be listened on.

    Raises:
        UsageError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"port: cannot listen on {host}:{port}: {error.strerror or error}. Another program "
                "may use it; give another --port."
            ) from error
