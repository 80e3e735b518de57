"""A cascade on Ray Serve: a deployment for each stage, and a router that takes requests.

The router awaits the answer of a stage before it calls the next one. Replicas of a stage gather
what they get into batches and run them one at a time, blocking: while one runs, the next one fills.
"""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from fastapi import FastAPI
from ray import get_gpu_ids, serve
from ray.exceptions import RayActorError, RayError
from torch import nn

from lit_cascade.core import Policy
from lit_cascade.errors import UsageError
from lit_cascade.options import ServingOptions
from lit_cascade.serve.http import LEFT, add_routes
from lit_cascade.serve.inputs import Inputs, Query
from lit_cascade.serve.prometheus import FOLDER, Metrics
from lit_cascade.serve.queues import Reply
from lit_cascade.serve.stage import Outcome, Sample, StageRunner, costs_of

ROUTER = "router"
"""Name of the deployment that takes requests; those of the stages have their names."""

_TRIES = 2
"""Replicas that may die with the same sample before it fails."""

_LOGGING = {"enable_access_log": False}  # Ray's would be a line for each sample and stage
_BATCH, _WAIT = 32, 0.01  # until `reconfigure` sets those of the stage
_batch: Any = serve.batch  # its types know functions of one argument
_deployment: Any = serve.deployment


@dataclass(frozen=True)
class Plan:
    """What all deployments of a cascade know.

    Attributes:
        names: of the stages, cheapest first.
        policy: with thresholds.
        inputs: what requests hold.
        classes: names in logit order; None for their numbers.
        readable: readable names of classes that have other ones.
        options: of the requests.
        costs: by unit and stage, beside those that are measured.
    """

    names: tuple[str, ...]
    policy: Policy
    inputs: Inputs
    classes: tuple[str, ...] | None
    readable: dict[str, str]
    options: ServingOptions
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Ran(NamedTuple):
    """What a stage made of a sample.

    Attributes:
        outcome: of the sample.
        batch: its whole batch, for the counts: outcomes without bodies, stages whose answers they
            audit, seconds that they waited, and seconds of the batch; None but for the first.
    """

    outcome: Outcome
    batch: tuple[list[Outcome], list[str | None], list[float], float] | None


class StageReplica:
    """A replica of a stage.

    Args:
        plan: of the cascade.
        number: of the stage.
        build: makes the stage where it runs.
    """

    def __init__(self, plan: Plan, number: int, build: Callable[[], nn.Module]) -> None:
        options = plan.options
        self._runner = StageRunner(
            number, plan.names, build(), plan.policy, plan.inputs, plan.classes, plan.readable,
            options.audit, costs_of(plan.costs, plan.names[number]),
        )  # fmt: skip
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._runner.to("cuda:0" if get_gpu_ids() else "cpu")
        self._size, self._seconds = 0, 0.0

    def reconfigure(self, settings: dict[str, Any]) -> None:
        """Take the settings of `user_config`: `batch_size`, and `wait` in seconds or null.

        Without a wait, it is the measured time of one full batch.
        """
        size, wait = int(settings.get("batch_size", _BATCH)), settings.get("wait")
        if size != self._size:
            self._size, self._seconds = size, self._runner.measure(size)
        self.answer.set_max_batch_size(size)
        self.answer.set_batch_wait_timeout_s(self._seconds if wait is None else float(wait))

    @_batch(max_batch_size=_BATCH, batch_wait_timeout_s=_WAIT)  # type: ignore[untyped-decorator]
    async def answer(
        self, samples: list[Sample], audited: list[str | None], sent: list[float]
    ) -> list[Ran]:
        """Run the stage on a batch.

        Args:
            samples: of the batch.
            audited: stage whose answer a sample audits.
            sent: time at which each sample was sent, of `time.time`.
        """
        waited = [max(0.0, time.time() - one) for one in sent]
        start = time.perf_counter()
        outcomes = self._runner(samples)
        seconds = time.perf_counter() - start
        counted = [replace(one, body=None, carried=None) for one in outcomes]
        batches = [(counted, audited, waited, seconds), *[None] * (len(outcomes) - 1)]
        return [Ran(one, batch) for one, batch in zip(outcomes, batches, strict=True)]

    def describe(self) -> dict[str, Any]:
        """Size and seconds of a full batch, and the cost of a sample by unit."""
        costs = self._runner.costs(self._seconds / self._size)
        return {"batch_size": self._size, "seconds": self._seconds, "costs": costs}


class Router:
    """The deployment that takes requests and sends samples from stage to stage.

    Args:
        plan: of the cascade.
        stages: handles of their deployments.
    """

    here: Router
    """The router of this process."""

    def __init__(self, plan: Plan, *stages: Any) -> None:
        self._plan, self._stages = plan, stages
        if FOLDER not in os.environ:
            os.environ[FOLDER] = tempfile.mkdtemp(prefix="lit-cascade-metrics-")
        self.metrics = Metrics(plan.names, plan.policy)
        self._waiting = [0] * len(stages)
        self._known: list[dict[str, Any] | None] = [None] * len(stages)
        self._background: set[asyncio.Future[Any]] = set()
        Router.here = self
        for number in range(len(stages)):
            self._later(self._describe(number))

    async def _describe(self, number: int) -> None:
        while self._known[number] is None:
            with suppress(RayError):
                self._known[number] = await self._stages[number].describe.remote()

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def answer(self, queries: Sequence[Query], left: asyncio.Future[Any]) -> list[Reply]:
        """Replies to some samples, in order.

        Args:
            queries: the samples.
            left: done when the client has left.
        """
        options = self._plan.options
        room = max(0, options.queue_size - sum(self._waiting))
        tasks = [asyncio.ensure_future(self._route(query)) for query in queries[:room]]
        if tasks:
            whole = asyncio.gather(*tasks)
            await asyncio.wait(
                {whole, left}, timeout=options.timeout, return_when=asyncio.FIRST_COMPLETED
            )
        status = LEFT if left.done() else 504
        late = {"error": f"no answer within {options.timeout:g} s."}
        replies = []
        for task in tasks:
            if not task.done():
                task.cancel()
            replies.append(task.result() if task.done() else Reply("", 0, status, late))
        full = Reply("", 0, 503, {"error": "too many requests wait."})
        return [*replies, *[full] * (len(queries) - len(replies))]

    async def _route(self, query: Query) -> Reply:
        before = None
        for number in range(len(self._stages)):
            outcome = await self._run(number, Sample(query.input, query.top, before), None)
            if not outcome.deferred:
                break
            before = outcome.carried
        body = outcome.body or {}
        if outcome.audit:
            sample = Sample(query.input, 0, outcome.carried, int(body["prediction"]))
            self._later(self._run(len(self._stages) - 1, sample, str(body["stage"])))
        return Reply("", 0, outcome.status, body)

    async def _run(self, number: int, sample: Sample, audited: str | None) -> Outcome:
        """Outcome of a sample at a stage; a replica that dies with it is tried twice."""
        name = self._plan.names[number]
        self._waiting[number] += 1
        try:
            for _ in range(_TRIES):
                with suppress(RayActorError):
                    ran: Ran = await self._stages[number].answer.remote(
                        sample, audited, time.time()
                    )
                    if ran.batch is not None:
                        self.metrics.batch(name, *ran.batch)
                    return ran.outcome
            return Outcome({"error": f"{_TRIES} workers died with this input."}, 500)
        except RayError as error:
            why = str(getattr(error, "cause", None) or error).strip().splitlines()
            said = why[-1] if why else type(error).__name__
            return Outcome({"error": f"stage {name!r} failed: {said}"}, 500)
        finally:
            self._waiting[number] -= 1

    def state(self) -> dict[str, Any]:
        """What there is of each stage; see `Service.state`."""
        seconds = [
            math.ceil(waiting / one["batch_size"]) * one["seconds"]
            for waiting, one in zip(self._waiting, self._known, strict=True)
            if one is not None
        ]
        return {
            "waiting": list(self._waiting),
            "ready": [int(one is not None) for one in self._known],
            "costs": [{} if one is None else one["costs"] for one in self._known],
            "retry_after": max(1, math.ceil(max(seconds, default=0.0))),
            "draining": False,
        }


class _Here:
    """The service of the router in this process, for routes that are made before there is one."""

    names: Sequence[str]

    def __init__(self, plan: Plan) -> None:
        self.names, self.policy, self.options = plan.names, plan.policy, plan.options
        self._inputs = plan.inputs

    @property
    def kind(self) -> Inputs:
        return self._inputs

    @property
    def metrics(self) -> Metrics:
        return Router.here.metrics

    async def answer(self, queries: Sequence[Query], left: asyncio.Future[Any]) -> list[Reply]:
        return await Router.here.answer(queries, left)

    def state(self) -> dict[str, Any]:
        return Router.here.state()


def application(plan: Plan, builds: Sequence[Callable[[], nn.Module]]) -> Any:
    """A cascade as an application of Ray Serve: a deployment of each stage, and the router.

    Args:
        plan: of the cascade.
        builds: make the stages where they run.

    Raises:
        UsageError: a stage with the name of the router.
    """
    if ROUTER in plan.names:
        raise UsageError(f"stages: {ROUTER!r} is the name of the deployment that takes requests.")
    sizes = plan.options.by_stage("batch_size", plan.names)
    waits = plan.options.by_stage("wait", plan.names)
    # no less for a stage: a router that may not send asks again and again, which takes its time
    most = plan.options.queue_size + plan.options.max_inputs
    stages = [
        _deployment(StageReplica)
        .options(
            name=name,
            max_ongoing_requests=most,
            user_config={"batch_size": size, "wait": wait},
            logging_config=_LOGGING,
        )
        .bind(plan, number, build)
        for number, (name, build, size, wait) in enumerate(
            zip(plan.names, builds, sizes, waits, strict=True)
        )
    ]
    app = FastAPI(title="lit-cascade", description=f"Cascade of {', '.join(plan.names)}.")
    add_routes(app, _Here(plan))
    router = _deployment(serve.ingress(app)(Router))
    return router.options(name=ROUTER, max_ongoing_requests=most, logging_config=_LOGGING).bind(
        plan, *stages
    )
