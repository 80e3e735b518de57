"""`serve --to ray`: numbers of replicas, and what is refused. `tests/ray` deploys such a file."""

import json

import pytest
import yaml

from tests.cli.runs import done, within

pytest.importorskip("ray", reason="the extra ray is not installed")
WORDS = ("serve", "--config", "digits_pair.yaml", "--trainer.accelerator", "cpu", "--to", "ray")


def application(folder):
    """As `serve run` and `serve deploy` read it: an unknown key would be refused."""
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load((folder / "serve.yaml").read_text())
    (read,) = ServeDeploySchema.model_validate(content).applications
    assert read.name == "lit-cascade"
    return content["applications"][0]


def deployments(folder):
    return {one["name"]: one for one in application(folder)["deployments"]}


@pytest.fixture
def benchmark(tmp_path):
    row = {"thresholds": [0.92], "reached": {"small": 1.0, "large": 0.1}}
    costs = {"small": {"latency_s": 0.001}, "large": {"latency_s": 0.04}}
    content = {"costs": costs, "model_only": {"cascade": [row]}}
    (tmp_path / "benchmark.json").write_text(json.dumps(content))
    return ("--benchmark", "benchmark.json")


def test_replicas_are_in_the_ratio_of_the_work(tmp_path, benchmark):
    """p t_large / t_small, with p of the evidence, or else of the benchmark at these thresholds."""
    done(within(*WORDS, *benchmark, "--out", "a", cwd=tmp_path))
    found = deployments(tmp_path / "a")
    counts = {
        name: found[name]["autoscaling_config"]["min_replicas"]
        for name in found
        if name != "router"
    }
    assert counts == {"small": 1, "large": 4}
    evidence = json.dumps({"scores": {"small": {"n": 100, "deferred": 5}}})
    words = ("--policy.evidence", evidence, "--rate", 1600, "--ray.gpus.large", 0.5)
    done(within(*WORDS, *benchmark, *words, "--batch_size.large", 8, "--out", "b", cwd=tmp_path))
    found = deployments(tmp_path / "b")
    assert found["small"]["autoscaling_config"]["min_replicas"] == 2, "1.6 s of work each second"
    assert found["large"]["autoscaling_config"]["min_replicas"] == 4
    assert found["large"]["ray_actor_options"] == {"num_cpus": 1.0, "num_gpus": 0.5}
    assert found["large"]["user_config"] == {"batch_size": 8, "wait": None}
    done(within(*WORDS, "--ray.actors", 3, "--out", "c", cwd=tmp_path))
    found = deployments(tmp_path / "c")
    assert found["large"]["autoscaling_config"]["min_replicas"] == 3


def test_other_batches_change_no_argument(tmp_path):
    """Where arguments change, Ray starts all replicas again."""
    done(within(*WORDS, "--timeout", 9, "--out", "a", cwd=tmp_path))
    words = ("--timeout", 9, "--batch_size", 4, "--wait.large", 0.5)
    done(within(*WORDS, *words, "--out", "b", cwd=tmp_path))
    one, two = (application(tmp_path / out) for out in "ab")
    assert one["deployments"] != two["deployments"]
    assert one["args"] == two["args"]
    assert one["args"]["options"] == {"timeout": 9.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "9"], "--rate: the seconds of each stage are unknown; give --benchmark"),
        (["--benchmark", "none.json"], "--benchmark: expected the benchmark.json of the stages"),
        (["--ray.actors.tiny", "2"], "ray.actors: 'tiny' is unknown"),
        (["--workers.large", "2"], "--workers: it has no effect with --to ray; replicas"),
        (["--devices", "cpu"], "--devices: it has no effect with --to ray; replicas"),
        (["--http_workers", "2"], "--http_workers: it has no effect with --to ray; Ray"),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, message):
    run = within(*WORDS, *words, "--out", "d", cwd=tmp_path)
    assert run.returncode == 2
    assert message in run.stderr
    assert len(run.stderr.splitlines()) <= 3
    assert not (tmp_path / "d").exists()
