"""The public routes of a served cascade, on whatever engine answers them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect

from lit_cascade.core import Policy
from lit_cascade.options import ServingOptions
from lit_cascade.serve.inputs import (
    Inputs,
    Query,
    RequestError,
    media_types,
    parse_json,
    parse_request,
    parse_sample,
)
from lit_cascade.serve.prometheus import Metrics
from lit_cascade.serve.queues import Reply

LEFT = 499
"""Status of a request whose client has left, as nginx has it: nobody sees it."""

_BODY_SECONDS = 30.0


class Service(Protocol):
    """What the routes need of an engine."""

    names: Sequence[str]
    policy: Policy
    options: ServingOptions

    @property
    def kind(self) -> Inputs:
        """What requests hold."""

    @property
    def metrics(self) -> Metrics:
        """Counts of this process."""

    async def answer(self, queries: Sequence[Query], left: asyncio.Future[Any]) -> list[Reply]:
        """Replies to some samples, in order; `left` is done when the client has left."""

    def state(self) -> dict[str, Any]:
        """Plain values: `ready` workers by stage, `retry_after` in seconds, `draining`.

        Raises:
            ConnectionError: the engine is ending.
        """


async def _read(request: Request, most: int) -> bytes:
    """The body of a request.

    Raises:
        RequestError: it is too long, or comes too slowly.
    """
    too_long = RequestError(413, f"body: at most {most:,} bytes.")
    told = request.headers.get("content-length") or "0"
    if not told.isdecimal():
        raise RequestError(400, "content-length: expected a number.")
    if int(told) > most:
        raise too_long

    async def read() -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise too_long
            parts.append(part)
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), _BODY_SECONDS)
    except TimeoutError:
        raise RequestError(408, f"body: it took more than {_BODY_SECONDS:.0f} s.") from None
    except ClientDisconnect:
        raise RequestError(LEFT, "the client has left.") from None


async def _departure(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Routes:
    """The routes of one service."""

    def __init__(self, service: Service) -> None:
        self._service, self._options, self._kind = service, service.options, service.kind

    async def predict(self, request: Request) -> Response:
        """Answer one input."""
        content_type = request.headers.get("content-type", "")
        top = request.query_params.get("top_k")
        try:
            body = await _read(request, self._options.max_body)
            query = parse_request(self._kind, content_type, body, top)
            (reply,) = await self._replies(request, [query])
        except RequestError as error:
            return self._response(error.status, {"error": str(error)})
        return self._response(reply.status, reply.body)

    async def predict_batch(self, request: Request) -> Response:
        """Answer several inputs, in order; one that cannot be answered fails alone."""
        queries: list[Query | RequestError] = []
        try:
            body = await _read(request, self._options.max_body)
            inputs, top = _batch_of(parse_json(body), self._options.max_inputs)
            for one in inputs:
                try:
                    queries.append(parse_sample(self._kind, one, top))
                except RequestError as error:
                    queries.append(error)
            readable = [one for one in queries if isinstance(one, Query)]
            replies = iter(await self._replies(request, readable) if readable else [])
        except RequestError as error:
            return self._response(error.status, {"error": str(error)})
        answers = [
            {"error": str(one), "status": one.status}
            if isinstance(one, RequestError)
            else _in_batch(next(replies))
            for one in queries
        ]
        refused = all(one.get("status") == 503 for one in answers)
        return self._response(503 if refused else 200, {"answers": answers})

    async def healthz(self) -> Response:
        """Whether the server runs."""
        try:
            self._service.state()
        except (EOFError, ConnectionError):
            return JSONResponse({"status": "ending"}, 503)
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> Response:
        """Whether every stage takes samples; 503 while one does not, or the server ends."""
        try:
            state = self._service.state()
        except (EOFError, ConnectionError):
            return JSONResponse({"status": "ending"}, 503)
        workers = dict(zip(self._service.names, state["ready"], strict=True))
        ready = all(state["ready"]) and not state["draining"]
        status = "ready" if ready else "ending" if state["draining"] else "not ready"
        return JSONResponse({"status": status, "workers": workers}, 200 if ready else 503)

    async def policy(self) -> Response:
        """The policy that decides which stage answers, without its evidence."""
        policy = self._service.policy
        shown = {name: one for name, one in policy.to_dict().items() if name != "evidence"}
        head = {"fingerprint": policy.fingerprint, "stages": list(self._service.names)}
        return JSONResponse(head | _plain(shown))

    async def scrape(self) -> Response:
        """What the server has counted, for Prometheus."""
        try:
            text = self._service.metrics.text(self._service.state())
        except (EOFError, ConnectionError):
            return JSONResponse({"status": "ending"}, 503)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def _replies(self, request: Request, queries: Sequence[Query]) -> list[Reply]:
        left, start = asyncio.ensure_future(_departure(request)), time.perf_counter()
        try:
            replies = await self._service.answer(queries, left)
        finally:
            left.cancel()
        seconds = time.perf_counter() - start
        for reply in replies:
            if reply.status == 200:
                self._service.metrics.answer(reply.body["stage"], seconds)
        return replies

    def _response(self, status: int, body: Any) -> JSONResponse:
        self._service.metrics.request(status)
        headers = {}
        if status == 503:
            with suppress(EOFError, ConnectionError):
                headers["Retry-After"] = str(self._service.state()["retry_after"])
        return JSONResponse(body, status, headers)


def add_routes(app: FastAPI, service: Service, dependencies: Sequence[Any] = ()) -> None:
    """Add the routes of a served cascade.

    Args:
        app: to add them to.
        service: the engine.
        dependencies: of the routes that answer, such as a key that they ask for.
    """
    routes, kind = _Routes(service), service.kind
    bodies: dict[str, Any] = {media: {"schema": _BYTES} for media in media_types(kind)[1:]}
    one = _object({kind.key: kind.schema(), "top_k": _TOP})
    several = _object({"inputs": {"type": "array", "items": one}, "top_k": _TOP})
    answers = {"type": "array", "items": {"anyOf": [_ANSWER, _ERROR]}}
    for path, route, content, answer in (
        ("/predict", routes.predict, bodies | {"application/json": {"schema": one}}, _ANSWER),
        (
            "/predict/batch",
            routes.predict_batch,
            {"application/json": {"schema": several}},
            _object({"answers": answers}),
        ),
    ):
        described = {
            "requestBody": {"required": True, "content": content},
            "responses": {
                "200": _json("The answer.", answer),
                "422": _json("What was expected.", _ERROR),
                "503": _json("Too many requests wait; see Retry-After.", _ERROR),
            },
        }
        app.add_api_route(
            path, route, methods=["POST"], dependencies=list(dependencies), openapi_extra=described
        )
    for plain in (routes.healthz, routes.readyz, routes.policy):
        app.add_api_route(f"/{plain.__name__}", plain, methods=["GET"])
    app.add_api_route("/metrics", routes.scrape, methods=["GET"], response_class=PlainTextResponse)


def _in_batch(reply: Reply) -> dict[str, Any]:
    return reply.body if reply.status == 200 else {**reply.body, "status": reply.status}


def _batch_of(value: Any, most: int) -> tuple[list[Any], Any]:
    """The inputs of a request for several answers, and its `top_k`.

    Raises:
        RequestError: something else.
    """
    known = isinstance(value, dict) and set(value) <= {"inputs", "top_k"}
    inputs = value.get("inputs") if known else None
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(
            422, "expected a JSON object with 'inputs', a list, and perhaps 'top_k'."
        )
    if len(inputs) > most:
        raise RequestError(413, f"inputs: at most {most:,}, got {len(inputs):,}.")
    return inputs, value.get("top_k")


_BYTES = {"type": "string", "format": "binary"}
_TOP = {"type": "integer", "minimum": 1, "description": "number of likeliest classes to return"}
_NAMED = {
    "prediction": {"type": "integer", "description": "number of the class"},
    "name": {"type": "string", "description": "name of the class"},
    "probability": {"type": "number"},
}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties)[:1]}


def _json(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_ERROR = _object({"error": {"type": "string"}})
_ANSWER = _object(
    {
        **_NAMED,
        "stage": {"type": "string", "description": "stage that answered"},
        "score": {"type": "number", "description": "its confidence score"},
        "top_k": {"type": "array", "items": _object(_NAMED)},
    }
)


def _plain(value: Any) -> Any:
    """Values that JSON holds: infinities as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
