"""Queues of a served cascade, one per stage, and who holds what; loads no torch.

One object holds them all, in a process of its own. What a worker takes stays noted as its own until
the worker gives the results back, in one call: when a worker dies, its samples go to the next one,
and none is lost or answered twice.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_TRIES = 2
"""Workers that may die with the same sample before it fails."""

_IDLE = 1.0
"""Seconds after which a worker without work is asked to call again."""

_SHORTEST = 0.001
"""Least seconds that a batch waits to be filled."""


class Waiting(NamedTuple):
    """A sample that waits for a stage.

    Attributes:
        uid: of its request.
        client: number of the process that waits for the answer.
        input: what the stages preprocess.
        top: number of likeliest classes to return; 0 for the answer alone.
        before: what the earlier stages said, as far as later ones need it.
        audited: the stage that answered and its answer, where the sample only audits it.
        since: time at which it came to this queue, of `time.monotonic`.
        tries: number of workers that died with it.
    """

    uid: str
    client: int
    input: Any
    top: int = 0
    before: Any = None
    audited: tuple[str, int] | None = None
    since: float = 0.0
    tries: int = 0


class Reply(NamedTuple):
    """Answer to a sample, or why there is none.

    Attributes:
        uid: of the request.
        client: number of the process that waits for it.
        status: HTTP status.
        body: what is returned as JSON.
    """

    uid: str
    client: int
    status: int
    body: dict[str, Any]


class Done(NamedTuple):
    """What a worker made of the samples that it took.

    Attributes:
        replies: of those that it answered, or that failed.
        deferred: those that wait for the next stage.
        audits: those that the last stage audits.
    """

    replies: Sequence[Reply] = ()
    deferred: Sequence[Waiting] = ()
    audits: Sequence[Waiting] = ()


@dataclass
class _Queue:
    """Samples that wait for one stage, by uid, in order; audits take places that are left."""

    size: int
    wait: float | None
    waiting: OrderedDict[str, Waiting] = field(default_factory=OrderedDict)
    audits: deque[Waiting] = field(default_factory=deque)
    measured: float = 0.0
    ready: set[str] = field(default_factory=set)
    restarts: int = 0
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long a batch waits to be filled: as given, or the time of one full batch."""
        return max(_SHORTEST, self.measured if self.wait is None else self.wait)


class StageQueues:
    """The queues of all stages, the samples that workers hold, and the replies for clients.

    Args:
        sizes: of a full batch of each stage.
        waits: seconds that a batch of each stage waits to be filled, once it has a sample and a
            worker; None for the measured time of one full batch.
        workers: number of workers of each stage.
        clients: number of processes that wait for answers.
        most: samples that may wait, in all queues together, before further ones are refused.
            Deferred ones are never refused: they were accepted.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        waits: Sequence[float | None],
        workers: Sequence[int],
        clients: int,
        most: int,
    ) -> None:
        self._queues = [_Queue(size, wait) for size, wait in zip(sizes, waits, strict=True)]
        self._workers, self._most = tuple(workers), most
        self._held: dict[str, tuple[int, list[Waiting]]] = {}
        self._dead: set[str] = set()
        self._replies: list[list[Reply]] = [[] for _ in range(clients)]
        self._failure = ""
        self._draining = False
        lock = threading.RLock()
        self._changed = [threading.Condition(lock) for _ in self._queues]
        self._answered = [threading.Condition(lock) for _ in range(clients)]
        self._lock = lock

    def offer(self, samples: Sequence[Waiting]) -> int:
        """Add new samples to the first queue, as many as there is room for.

        Returns:
            How many of them, in order; the others are refused.
        """
        with self._lock:
            room = max(0, self._most - sum(len(queue.waiting) for queue in self._queues))
            self._add(0, samples[:room])
            return min(room, len(samples))

    def exchange(self, worker: str, stage: int, done: Done | None) -> list[Waiting]:
        """Give back results, and wait for the next samples.

        Args:
            worker: name of the worker, which no other ever has.
            stage: number of the stage.
            done: results of the samples that it took; None where it took none.

        Returns:
            At most a full batch; empty after a while without any: call again.
        """
        with self._lock:
            if worker in self._dead:  # its samples were given to another
                return []
            self._held.pop(worker, None)
            if done is not None:
                self._settle(stage, done)
            batch = self._next(worker, stage)
            if batch:
                self._held[worker] = (stage, batch)
            return batch

    def _settle(self, stage: int, done: Done) -> None:
        for client in self._reply(done.replies):
            self._answered[client].notify()
        if done.deferred:
            self._add(stage + 1, done.deferred)
        if done.audits:
            last = self._queues[-1]
            room = max(0, 4 * last.size - len(last.audits))
            last.audits.extend(done.audits[:room])
            self._changed[-1].notify_all()

    def _reply(self, replies: Iterable[Reply]) -> set[int]:
        for reply in replies:
            self._replies[reply.client].append(reply)
        return {reply.client for reply in replies}

    def _add(self, stage: int, samples: Iterable[Waiting]) -> None:
        now = time.monotonic()
        queue = self._queues[stage]
        for sample in samples:
            queue.waiting[sample.uid] = sample._replace(since=now)
        self._changed[stage].notify_all()

    def _next(self, worker: str, stage: int) -> list[Waiting]:
        """Wait for a sample, then for others that fill the batch; audits take what is left."""
        queue, changed = self._queues[stage], self._changed[stage]
        idle = time.monotonic() + _IDLE
        while not queue.waiting and not queue.audits:
            left = idle - time.monotonic()
            if left <= 0 or worker in self._dead:
                return []
            changed.wait(left)
        end = time.monotonic() + queue.seconds
        while len(queue.waiting) < queue.size and not self._draining:
            left = end - time.monotonic()
            if left <= 0 or worker in self._dead:
                break
            changed.wait(left)
        if worker in self._dead:
            return []
        count = min(queue.size, len(queue.waiting))
        batch = [queue.waiting.popitem(last=False)[1] for _ in range(count)]
        while queue.audits and len(batch) < queue.size:
            batch.append(queue.audits.popleft())
        return batch

    def release(self, worker: str) -> None:
        """Give the samples of a worker that died to the next one, at the front of the queue.

        A sample with which two workers died fails.
        """
        with self._lock:
            self._dead.add(worker)
            for queue in self._queues:
                queue.restarts += worker in queue.ready
                queue.ready.discard(worker)
            stage, held = self._held.pop(worker, (0, []))
            failed = []
            for sample in reversed(held):
                if sample.audited is not None:
                    continue
                if sample.tries + 1 < _TRIES:
                    queue = self._queues[stage]
                    queue.waiting[sample.uid] = sample._replace(tries=sample.tries + 1)
                    queue.waiting.move_to_end(sample.uid, last=False)
                else:
                    failed.append(
                        Reply(
                            sample.uid, sample.client, 500,
                            {"error": f"{_TRIES} workers died with this input."},
                        )
                    )  # fmt: skip
            for client in self._reply(failed):
                self._answered[client].notify()
            for changed in self._changed:
                changed.notify_all()

    def drop(self, uids: Iterable[str]) -> None:
        """Remove samples whose clients have left, unless a worker holds them already."""
        with self._lock:
            for uid in uids:
                for queue in self._queues:
                    queue.waiting.pop(uid, None)

    def replies(self, client: int, seconds: float = _IDLE) -> list[Reply]:
        """Wait for replies to a client; empty after some seconds without any."""
        with self._lock:
            if not self._replies[client]:
                self._answered[client].wait(seconds)
            found, self._replies[client] = self._replies[client], []
            return found

    def ready(
        self, worker: str, stage: int, seconds: float, costs: Mapping[str, float] | None = None
    ) -> None:
        """Note that a worker takes samples from now on.

        Args:
            worker: its name.
            stage: number of the stage.
            seconds: measured time of one full batch.
            costs: of a sample, by unit.
        """
        with self._lock:
            queue = self._queues[stage]
            queue.ready.add(worker)
            queue.measured = max(queue.measured, seconds)
            queue.costs |= costs or {}

    def fail(self, reason: str) -> None:
        """Note why the server cannot go on; the first reason counts."""
        with self._lock:
            self._failure = self._failure or reason

    def drain(self) -> None:
        """Let batches no longer wait to be filled."""
        with self._lock:
            self._draining = True
            for changed in self._changed:
                changed.notify_all()

    def state(self) -> dict[str, Any]:
        """What there is of everything, as plain values.

        Returns:
            By stage `waiting`, `ready` workers, `seconds` that a batch waits, `restarts` and the
            `costs` of a sample; `retry_after`, the seconds until what waits is done; the `failure`,
            and whether it is `draining`.
        """
        with self._lock:
            seconds = 0.0
            for queue, workers in zip(self._queues, self._workers, strict=True):
                batches = math.ceil(len(queue.waiting) / queue.size)
                seconds = max(seconds, batches * queue.measured / workers)
            return {
                "waiting": [len(queue.waiting) for queue in self._queues],
                "ready": [len(queue.ready) for queue in self._queues],
                "seconds": [queue.seconds for queue in self._queues],
                "restarts": [queue.restarts for queue in self._queues],
                "costs": [dict(queue.costs) for queue in self._queues],
                "retry_after": max(1, math.ceil(seconds)),
                "failure": self._failure,
                "draining": self._draining,
            }
