"""`serve --to ray`: the file is taken as it is, and answers are those of `Cascade`."""

import contextlib
import json
import math
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml

from lit_cascade.cli.configured import load_cascade
from lit_cascade.data import DigitsData
from lit_cascade.serve import metrics, read_scrape
from tests.cli.runs import done, free_port, within

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # within Ray
]
PATIENCE = 300


def ask(url, body=None):
    """Status and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def served(ray_cluster, tmp_path_factory):
    """Address of the digits, deployed from the file that the command has written."""
    from ray import serve
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    here = tmp_path_factory.mktemp("deploy")
    port = free_port()
    words = ("serve", "--config", "digits_pair.yaml", "--trainer.accelerator", "cpu", "--to", "ray")
    words += (
        "--batch_size",
        16,
        "--wait.small",
        0.005,
        "--audit",
        "20%",
        "--port",
        port,
        "--timeout",
        PATIENCE,
    )
    done(within(*words, "--ray.cpus", 0.5, "--out", "deploy", cwd=here))
    again = within(*words, "--out", "deploy", cwd=here)
    assert again.returncode == 2, "an older file is kept"
    config = yaml.safe_load((here / "deploy/serve.yaml").read_text())
    schema = ServeDeploySchema.model_validate(config)
    client = serve_start(
        http_options=schema.http_options.model_dump(), proxy_location=schema.proxy_location
    )
    try:
        client.deploy_apps(schema)
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                if ask(f"{url}/readyz")[0] == 200:
                    break
            status = serve.status().applications["lit-cascade"]
            assert status.status != "DEPLOY_FAILED", status.message
            time.sleep(0.5)
        else:
            pytest.fail(f"not ready after {PATIENCE} s: {serve.status()}")
        yield url
    finally:
        serve.shutdown()


@pytest.fixture(scope="module")
def digits():
    data = DigitsData()
    data.setup("validate")
    dataset = data.val_dataloader().dataset
    return torch.stack([dataset[i][0] for i in range(len(dataset))])


def test_answers_are_those_of_the_cascade(served, digits):
    with torch.inference_mode():
        told = load_cascade("digits_pair.yaml")(digits)
    with ThreadPoolExecutor(48) as pool:
        bodies = [{"array": image.tolist(), "top_k": 2} for image in digits]
        found = list(pool.map(lambda body: ask(f"{served}/predict", body), bodies))
    assert {status for status, _ in found} == {200}
    answers = [answer for _, answer in found]
    assert [one["prediction"] for one in answers] == told.prediction.tolist()
    assert [one["stage"] for one in answers] == [("small", "large")[k] for k in told.stage]
    for one, score in zip(answers, told.score.tolist(), strict=True):
        assert math.isclose(one["score"], score, abs_tol=1e-6)
        assert one["top_k"][0]["prediction"] == one["prediction"]
    with urllib.request.urlopen(f"{served}/metrics", timeout=30) as answer:  # noqa: S310
        scrape = answer.read().decode()
    counts = {}
    for line in scrape.splitlines():
        if line.startswith((metrics.SAMPLES, f"{metrics.BATCH_SIZE}_")):
            name, value = line.rsplit(" ", 1)
            counts[name] = float(value)
    deferred = int((told.stage == 1).sum())
    assert counts[f'{metrics.SAMPLES}{{outcome="deferred",stage="small"}}'] == deferred
    assert counts[f'{metrics.SAMPLES}{{outcome="answered",stage="large"}}'] == deferred
    assert counts[f'{metrics.BATCH_SIZE}_sum{{stage="small"}}'] == len(digits)
    assert counts[f'{metrics.BATCH_SIZE}_count{{stage="small"}}'] < len(digits)
    read = read_scrape(scrape, served)
    assert read.samples(["small", "large"], "answered") == [len(digits) - deferred, deferred]
    assert read.fingerprint == ask(f"{served}/policy")[1]["fingerprint"]


def test_other_routes_and_mistakes(served, digits):
    good = {"array": digits[0].tolist()}
    status, answer = ask(f"{served}/predict/batch", {"inputs": [good, {"array": [1, 2]}, good]})
    assert status == 200
    first, bad, last = answer["answers"]
    assert first == last
    assert bad["status"] == 422
    assert "float32 numbers of shape (1, 8, 8)" in bad["error"]
    assert ask(f"{served}/predict", {"arr": 1})[0] == 422
    assert ask(f"{served}/policy")[1]["thresholds"] == {"small": 0.92}
    assert ask(f"{served}/healthz")[0] == 200
    assert "/predict/batch" in ask(f"{served}/openapi.json")[1]["paths"]
    assert ask(f"{served}/small")[0] == 404


def test_a_replica_that_is_killed_loses_no_request(served, digits, ray_cluster):
    actors = ray_cluster.util.list_named_actors(all_namespaces=True)
    (small,) = [one for one in actors if "#small#" in one["name"]]
    with ThreadPoolExecutor(16) as pool:
        bodies = [{"array": image.tolist()} for image in digits[:200]]
        futures = [pool.submit(ask, f"{served}/predict", body) for body in bodies]
        while not futures[40].done():
            time.sleep(0.01)
        ray_cluster.kill(ray_cluster.get_actor(**small))
        answers = [future.result() for future in futures]
    assert {status for status, _ in answers} == {200}
