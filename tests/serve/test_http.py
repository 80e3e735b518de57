"""The routes, on an engine of a few lines."""

import json
import random

import pytest
import torch

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from lit_cascade import Policy
from lit_cascade.options import ServingOptions
from lit_cascade.serve.http import add_routes
from lit_cascade.serve.inputs import ArrayInput
from lit_cascade.serve.prometheus import Metrics
from lit_cascade.serve.queues import Reply

NAMES = ("small", "large")
STATE = {
    "waiting": [0, 0], "restarts": [0, 0], "costs": [{}, {}], "ready": [1, 1], "draining": False,
    "retry_after": 7,
}  # fmt: skip


class Engine:
    """Answers with the sum of the numbers; refuses those above 100."""

    names, policy = NAMES, Policy(0.9, names=NAMES)
    options = ServingOptions(max_body=1000, max_inputs=5)
    kind = ArrayInput(torch.zeros(2))

    def __init__(self):
        self.metrics, self._state, self.gone = Metrics(NAMES, self.policy), dict(STATE), False

    async def answer(self, queries, left):
        assert not left.done()
        replies = []
        for number, query in enumerate(queries):
            total = float(query.input[0].sum())
            body = {"prediction": int(total), "stage": "small", "top": query.top}
            busy = Reply(str(number), 0, 503, {"error": "too many requests wait."})
            replies.append(busy if total > 100 else Reply(str(number), 0, 200, body))
        return replies

    def state(self):
        if self.gone:
            raise EOFError
        return self._state


@pytest.fixture
def engine(counts):
    return Engine()


@pytest.fixture
def client(engine):
    app = FastAPI()
    add_routes(app, engine)
    return TestClient(app)


def one(*numbers, **more):
    return {"array": list(numbers), **more}


def test_answers_one_or_several(client):
    assert client.post("/predict", json=one(1, 2, top_k=2)).json() == {
        "prediction": 3, "stage": "small", "top": 2,
    }  # fmt: skip
    found = client.post("/predict", params={"top_k": 4}, json=one(1, 2)).json()
    assert found["top"] == 4
    body = {"inputs": [one(1, 1), one(1), {"array": "x"}, one(200, 0), one(2, 2, top_k=1)]}
    answers = client.post("/predict/batch", json=body | {"top_k": 3}).json()["answers"]
    assert [each.get("status") for each in answers] == [None, None, 422, 503, None]
    assert [each.get("prediction") for each in answers] == [2, 1, None, None, 4]
    assert [each.get("top") for each in answers] == [3, 3, None, None, 1]


def test_too_many_are_told_when_to_come_again(client):
    for path, body in (("/predict", one(200, 0)), ("/predict/batch", {"inputs": [one(200, 0)]})):
        found = client.post(path, json=body)
        assert (found.status_code, found.headers["retry-after"]) == (503, "7")


@pytest.mark.parametrize(
    ("body", "status"),
    [({"inputs": []}, 422), ({"inputs": 1}, 422), ({}, 422), ([], 422),
     ({"inputs": [one(1)], "x": 1}, 422), ({"inputs": [one(1)] * 6}, 413)],
)  # fmt: skip
def test_a_request_for_several_answers_that_holds_something_else(client, body, status):
    found = client.post("/predict/batch", json=body)
    assert found.status_code == status
    assert list(found.json()) == ["error"]


def test_a_long_body_is_refused_whether_its_length_is_told_or_not(client):
    assert client.post("/predict", content=b" " * 1001).status_code == 413
    chunks = (b" " * 100 for _ in range(20))
    assert client.post("/predict", content=chunks).status_code == 413
    assert client.post("/predict", content=b" ", headers={"content-length": "x"}).status_code == 400


def test_health_and_readiness(client, engine):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {
        "status": "ready", "workers": {"small": 1, "large": 1},
    }  # fmt: skip
    engine._state["ready"] = [1, 0]
    found = client.get("/readyz")
    assert (found.status_code, found.json()["status"]) == (503, "not ready")
    engine._state |= {"ready": [1, 1], "draining": True}
    found = client.get("/readyz")
    assert (found.status_code, found.json()["status"]) == (503, "ending")
    assert client.get("/healthz").status_code == 200
    engine.gone = True
    for path in ("/healthz", "/readyz", "/metrics"):
        assert client.get(path).status_code == 503


def test_a_policy_with_infinite_thresholds_is_valid_json(client, engine):
    engine.policy = Policy(float("-inf"), names=NAMES)
    found = client.get("/policy")
    assert found.json()["thresholds"] == {"small": "-inf"}
    assert json.loads(found.text) == found.json()


def test_requests_are_counted_by_status(client):
    for body in (one(1), one(1), {"array": "x"}, one(200)):
        client.post("/predict", json=body)
    lines = client.get("/metrics").text.splitlines()
    assert 'lit_cascade_requests_total{code="200"} 2.0' in lines
    assert 'lit_cascade_requests_total{code="422"} 1.0' in lines
    assert 'lit_cascade_requests_total{code="503"} 1.0' in lines
    assert 'lit_cascade_request_seconds_count{stage="small"} 2.0' in lines


def test_the_page_describes_what_is_taken(client):
    described = client.get("/openapi.json").json()["paths"]
    assert set(described) == {
        "/predict", "/predict/batch", "/healthz", "/readyz", "/policy", "/metrics",
    }  # fmt: skip
    body = described["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["array"]["example"] == [0.0, 0.0]
    assert client.get("/docs").status_code == 200


def test_fuzzed_bodies_are_refused_and_valid_ones_between_them_answered(client):
    rng = random.Random(0)  # noqa: S311
    valid = json.dumps(one(1, 2)).encode()
    types = ["application/json", "", "text/plain", "image/png", "multipart/form-data; boundary=a"]
    for number in range(400):
        body = bytearray(valid)
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(body))
            how = rng.choice(["change", "drop", "repeat"])
            if how == "change":
                body[place] = rng.randrange(256)
            elif how == "drop" and place:
                del body[place:]
            else:
                body *= 2
        path = rng.choice(["/predict", "/predict/batch"])
        found = client.post(path, content=bytes(body), headers={"content-type": rng.choice(types)})
        assert found.status_code in {200, 400, 413, 415, 422, 503}, body
        if number % 20 == 0:
            assert client.post("/predict", json=one(number % 90, 1)).json()["prediction"] == (
                number % 90 + 1
            )
