"""The digits pair over HTTP: the same answers as `Cascade`, and what it says to mistakes."""

import json
import math
import re
import shlex

import pytest
import torch

pytest.importorskip("litserve", reason="the extra serve is not installed")

from lit_cascade import load_cascade
from lit_cascade.data import DigitsData
from tests.cli.runs import within
from tests.forks import ROOT
from tests.serve.served import serving

PAIR = ("--config", "digits_pair.yaml", "--trainer.accelerator", "cpu")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    here = tmp_path_factory.mktemp("served")
    (here / "prices.csv").write_text("model,usd\nsmall,0.25\nlarge,2\nother,9\n")
    with serving(*PAIR, "--cost", "usd=prices.csv", cwd=here) as one:
        yield one


@pytest.fixture(scope="module")
def images():
    data = DigitsData()
    return torch.stack([data.dataset("validation")[i][0] for i in range(300)])


@pytest.fixture(scope="module")
def expected(images):
    cascade = load_cascade("digits_pair.yaml")
    with torch.inference_mode():
        output = cascade(images)
        return output, cascade.cascade.probability(output), cascade.cascade.likeliest(output, 3)


def bodies(images):
    return [{"array": image.tolist()} for image in images]


def test_answers_are_those_of_the_cascade(server, images, expected):
    output, probability, (classes, chances) = expected
    found = server.predict_all([body | {"top_k": 3} for body in bodies(images)])
    assert {status for status, _ in found} == {200}
    answers = [answer for _, answer in found]
    stages = output.stage.tolist()
    assert 0 < sum(stages) < len(stages)
    assert [one["prediction"] for one in answers] == output.prediction.tolist()
    assert [one["name"] for one in answers] == [str(one) for one in output.prediction.tolist()]
    assert [one["stage"] for one in answers] == [("small", "large")[k] for k in stages]
    assert [one["score"] for one in answers] == pytest.approx(output.score.tolist(), abs=1e-6)
    assert [one["probability"] for one in answers] == pytest.approx(probability.tolist(), abs=1e-6)
    for row, one in enumerate(answers):
        assert [best["prediction"] for best in one["top_k"]] == classes[row].tolist()
        got = [best["probability"] for best in one["top_k"]]
        assert got == pytest.approx(chances[row].tolist(), abs=1e-6)


def test_the_server_counts_what_it_answered(server, images, expected):
    def counts():
        kinds = [("small", "answered"), ("small", "deferred"), ("large", "answered")]
        return [
            server.counted("lit_cascade_samples_total", stage=stage, outcome=outcome)
            for stage, outcome in kinds
        ]

    before = counts()
    server.predict_all(bodies(images[:100]))
    stages = expected[0].stage[:100].tolist()
    deferred = stages.count(1)
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [
        100 - deferred, deferred, deferred,
    ]  # fmt: skip
    assert server.counted("lit_cascade_cost", unit="flops") == 18_944 + 1_826_816
    assert server.counted("lit_cascade_cost", unit="usd", stage="large") == 2
    assert server.counted("lit_cascade_cost", unit="usd") == 2.25


BLOCK = re.compile(r"^    curl (.*)$", re.MULTILINE)


def test_the_requests_of_the_page_are_answered_as_it_shows(server):
    """As curl sends them: the body is what follows -d."""
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    (words,) = map(shlex.split, BLOCK.findall(page))
    assert words[0] == "localhost:8000/predict"
    body = words[words.index("-d") + 1]
    status, answer = server.predict(body, content_type="application/json")
    assert status == 200
    shown = json.loads(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    assert answer.keys() == shown.keys()
    assert [answer[key] for key in ("prediction", "name", "stage")] == [0, "0", "small"]
    assert answer["score"] == pytest.approx(shown["score"], abs=1e-5)
    best = [(one["prediction"], one["name"]) for one in answer["top_k"]]
    assert best == [(one["prediction"], one["name"]) for one in shown["top_k"]]
    paths = set(re.findall(r"^\| `(/[a-z/_.]+)`(?:, `(/[a-z.]+)`)?", page, re.MULTILINE))
    named = {path for some in paths for path in some if path}
    described = set(server.ask("GET", "/openapi.json")[2]["paths"])
    assert described <= named | {"/readyz"}


def test_the_page_names_every_metric(server):
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    exposed = {
        family.name + ("_total" if family.type == "counter" else "") for family in server.families()
    }
    assert exposed == set(re.findall(r"`(lit_cascade_[a-z_]+)`", page))


def test_several_inputs_of_one_request_fail_alone(server, images, expected):
    inputs = [*bodies(images[:3]), {"array": [[1]]}, {"array": [[[1.0, 2.0]]]}, {"text": "a"}]
    status, _, content = server.ask("POST", "/predict/batch", {"inputs": inputs, "top_k": 1})
    assert status == 200
    answers = content["answers"]
    assert [one.get("status", 200) for one in answers] == [200, 200, 200, 422, 422, 422]
    right = expected[0].prediction[:3].tolist()
    assert [one["prediction"] for one in answers[:3]] == right
    assert [len(one["top_k"]) for one in answers[:3]] == [1, 1, 1]
    assert all("expected" in one["error"].lower() for one in answers[3:])


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "expected JSON"),
        (b"{", 400, "expected JSON"),
        (b"\xff\xfe", 400, "expected JSON"),
        (b"[" * 100_000, 400, "expected JSON"),
        (b'{"array": ' + b"9" * 5000 + b"}", 400, "expected JSON"),
        ([1], 422, "expected a JSON object with 'array'"),
        ({}, 422, "'array'"),
        ({"array": [[[1]]], "extra": 1}, 422, "'extra'"),
        ({"array": None}, 422, "float32 numbers of shape (1, 8, 8)"),
        ({"array": [[[1, 2], [3]]]}, 422, "float32 numbers"),
        ({"array": [[["a"]]]}, 422, "float32 numbers"),
        ({"array": [[[True]]]}, 422, "float32 numbers"),
        ({"array": []}, 422, "float32 numbers"),
        ({"array": [[[math.nan] * 8] * 8]}, 422, "all finite"),
        ({"array": [[[1e300] * 8] * 8]}, 422, "all finite"),
        ({"array": [[[1.0] * 9] * 8]}, 422, "stage 'small' cannot take this input"),
        ({"array": [[[1.0] * 8] * 8], "top_k": 0}, 422, "top_k: expected"),
        ({"array": [[[1.0] * 8] * 8], "top_k": "x"}, 422, "top_k: expected"),
    ],
)  # fmt: skip
def test_a_malformed_request_is_told_what_was_expected(server, body, status, said):
    headers = {"content_type": "application/json"}
    got, content = server.predict(body, **headers)
    assert (got, list(content)) == (status, ["error"])
    assert said in content["error"]


def test_other_content_is_told_what_is_taken(server):
    status, content = server.predict(b"x", content_type="image/png")
    assert (status, content["error"]) == (
        415, "content-type: expected application/json, got 'image/png'.",
    )  # fmt: skip


def test_a_long_body_is_refused(server):
    status, content = server.predict(b" " * 10_000_001, content_type="application/json")
    assert (status, content["error"]) == (413, "body: at most 10,000,000 bytes.")


def test_what_can_be_asked_of_the_server(server):
    assert server.ask("GET", "/healthz")[::2] == (200, {"status": "ok"})
    ready = {"status": "ready", "workers": {"small": 1, "large": 1}}
    assert server.ask("GET", "/readyz")[::2] == (200, ready)
    _, _, policy = server.ask("GET", "/policy")
    assert policy["thresholds"] == {"small": 0.92}
    assert policy["stages"] == ["small", "large"]
    assert policy["fingerprint"] == load_cascade("digits_pair.yaml").policy.fingerprint
    _, _, described = server.ask("GET", "/openapi.json")
    assert set(described["paths"]) == {
        "/predict", "/predict/batch", "/healthz", "/readyz", "/policy", "/metrics",
    }  # fmt: skip
    assert b"swagger" in server.ask("GET", "/docs")[2]


@pytest.mark.parametrize("path", ["/stages/0", "/stages/1", "/health", "/info", "/shutdown", "/"])
def test_nothing_internal_is_public(server, path):
    assert server.ask("POST", path, {})[0] == 404
    assert server.ask("GET", path)[0] == 404


def test_a_policy_without_thresholds_is_refused(tmp_path):
    (tmp_path / "policy.yaml").write_text("policy: {score: margin, thresholds: null}\n")
    run = within("serve", *PAIR, "--config", "policy.yaml", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr == (
        "lit-cascade serve: error: policy.thresholds: running a cascade needs a threshold for "
        "small; `lit-cascade validate` lists some.\n"
    ).replace("error: policy", "error: --policy")


def test_a_busy_port_is_refused_in_one_line(server, tmp_path):
    run = within("serve", *PAIR, "--port", server.port, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr == (
        f"lit-cascade serve: error: --port: cannot listen on 127.0.0.1:{server.port}: Address "
        "already in use. Another program may use it; give another --port.\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch_size.smal", "4"], "'smal' is unknown"),
        (["--batch_size", "0"], "--batch_size: expected at least 1"),
        (["--wait", "-1"], "--wait: expected"),
        (["--devices", "tpu9"], "--devices: expected names such as cpu or cuda:0"),
        (["--audit", "2"], "--audit"),
        (["--cost", "usd"], "--cost: expected UNIT=FILE with the cost of each stage"),
        (["--port", "70000"], "--port: expected a number from 1 to 65535"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, words, said):
    run = within("serve", *PAIR, *words, cwd=tmp_path)
    assert run.returncode == 2, run.stderr
    assert said in run.stderr
    assert run.stderr.count("\n") <= 3
