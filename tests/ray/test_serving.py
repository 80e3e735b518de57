"""`serve --to ray`: `serve run` takes the file as it is, and answers are those of `Cascade`."""

import contextlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lit_cascade import PolicyOptions, load_cascade
from lit_cascade.data import DigitsData
from lit_cascade.serve import read_scrape
from tests.cli.runs import done, free_port, within
from tests.serve.served import running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # within Ray
]
PATIENCE = 300
POLICY = PolicyOptions(score="agreement", thresholds={"small": 0.98}, combine="average")
"""With it the large stage needs all that the small one has said."""


@contextlib.contextmanager
def serve_run(cluster, folder, *words):
    """What `serve run` starts from the file that the command writes."""
    port = free_port()
    words = ("serve", *words, "--to", "ray", "--port", port, "--out", "deploy")
    done(within(*words, cwd=folder))
    assert within(*words, cwd=folder).returncode == 2, "an older file is kept"
    address = cluster.get_runtime_context().gcs_address
    command = ("run", "deploy/serve.yaml", "--address", address)
    with running("ray.serve.scripts", *command, port=port, cwd=folder) as server:
        server.until_ready(PATIENCE)
        yield server
        server.process.send_signal(signal.SIGINT)
        server.ended()


def test_digits(ray_cluster, tmp_path):
    words = ("--config", "digits_pair.yaml", "--trainer.accelerator", "cpu", "--ray.cpus", 0.5)
    words += ("--batch_size", 16, "--wait.small", 0.005, "--audit", "20%", "--timeout", PATIENCE)
    words += ("--ray.actors.small", 2, "--policy.score", "agreement", "--policy.combine", "average")
    (tmp_path / "prices.csv").write_text("model,usd\nsmall,0.25\nlarge,2\n")
    words += ("--policy.thresholds.small", 0.98, "--cost", "usd=prices.csv")
    images = digits(2000)
    with serve_run(ray_cluster, tmp_path, *words) as server:
        answers_are_those_of_the_cascade(server, images)
        one_that_cannot_be_answered_fails_alone(server, images[0])
        other_routes_are_those_of_every_engine(server)
        a_replica_that_is_killed_loses_no_request(server, images[:200], ray_cluster)


def digits(n):
    """As many different images: the digits, and the same with noise."""
    data = DigitsData()
    some = torch.stack([image for image, _ in data.dataset("validation")])
    noise = torch.Generator().manual_seed(0)
    several = some.repeat(-(-n // len(some)), 1, 1, 1)[:n]
    changed = several + torch.randint(-2, 3, several.shape, generator=noise)
    return torch.cat([some, changed[len(some) :]]).clamp(0, 16)


def answers_are_those_of_the_cascade(server, images):
    """Of single requests, and of some with several images among them."""
    cascade = load_cascade("digits_pair.yaml", POLICY)
    with torch.inference_mode():
        told = cascade(images)
        best, _ = cascade.cascade.likeliest(told, 2)
    deferred = int(told.stage.sum())
    assert 0.02 * len(images) < deferred < 0.5 * len(images)

    def ask(some):
        inputs = [{"array": image.tolist(), "top_k": 2} for image in some]
        if len(inputs) == 1:
            return [server.predict(inputs[0], timeout=PATIENCE)]
        status, _, content = server.ask(
            "POST", "/predict/batch", {"inputs": inputs}, timeout=PATIENCE
        )
        return [(status, one) for one in content["answers"]]

    single = len(images) // 4
    parts = [*images[:single].split(1), *images[single:].split(20)]
    with ThreadPoolExecutor(32) as pool:
        found = [one for some in pool.map(ask, parts) for one in some]
    assert {status for status, _ in found} == {200}
    answers = [answer for _, answer in found]
    assert [one["prediction"] for one in answers] == told.prediction.tolist()
    assert [one["stage"] for one in answers] == [("small", "large")[k] for k in told.stage]
    assert [one["score"] for one in answers] == pytest.approx(told.score.tolist(), abs=1e-6)
    shown = [[one["prediction"] for one in answer["top_k"]] for answer in answers]
    assert shown == best.tolist()
    read = read_scrape(server.ask("GET", "/metrics")[2].decode(), "metrics")
    assert read.samples(["small", "large"], "answered") == [len(images) - deferred, deferred]
    assert read.samples(["small"], "deferred") == [deferred]
    assert read.costs["usd"] == {"small": 0.25, "large": 2}
    assert read.fingerprint == cascade.policy.fingerprint
    assert server.counted("lit_cascade_batch_size_sum", stage="small") == len(images)
    assert server.counted("lit_cascade_batch_size_count", stage="small") < len(images)


def one_that_cannot_be_answered_fails_alone(server, image):
    good = {"array": image.tolist()}
    inputs = {"inputs": [good, {"array": [1, 2]}, good]}
    status, _, answer = server.ask("POST", "/predict/batch", inputs, timeout=PATIENCE)
    assert status == 200
    first, bad, last = answer["answers"]
    assert first["prediction"] == last["prediction"]
    assert bad["status"] == 422
    assert "float32 numbers of shape (1, 8, 8)" in bad["error"]
    assert server.predict({"arr": 1})[0] == 422


def other_routes_are_those_of_every_engine(server):
    assert server.ask("GET", "/policy")[2]["thresholds"] == {"small": 0.98}
    assert server.ask("GET", "/healthz")[0] == 200
    assert "/predict/batch" in server.ask("GET", "/openapi.json")[2]["paths"]
    assert server.ask("GET", "/small")[0] == 404


def a_replica_that_is_killed_loses_no_request(server, images, cluster):
    """Those that it holds go to the other one."""
    actors = cluster.util.list_named_actors(all_namespaces=True)
    small = [one for one in actors if "#small#" in one["name"]]
    assert len(small) == 2
    with ThreadPoolExecutor(16) as pool:
        bodies = [{"array": image.tolist()} for image in images]
        futures = [pool.submit(server.predict, body, timeout=PATIENCE) for body in bodies]
        while not futures[40].done():
            time.sleep(0.01)
        cluster.kill(cluster.get_actor(**small[0]))
        answers = [future.result() for future in futures]
    assert {status for status, _ in answers} == {200}
