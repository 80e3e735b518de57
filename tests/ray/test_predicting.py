"""`predict --engine ray` on a cluster of several processes."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lit_cascade import CascadeError, LitCascade, PolicyOptions
from lit_cascade.lit import RayPools, on_ray
from lit_cascade.options import RayOptions
from tests.cli.runs import done, within
from tests.lit.cascades import points, trainer
from tests.lit.test_on_ray import check_equal
from tests.toys import Named, Net

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
N = 150


class Mortal(Net):
    """A network whose process is killed on its third batch, once."""

    def __init__(self, mark: Path, seed: int):
        super().__init__(seed=seed)
        self.mark, self.calls = mark, 0

    def forward(self, x):
        self.calls += worker()
        if self.calls == 3 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def worker():
    """Whether this is a process of Ray's."""
    import ray

    return ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def test_digits_by_the_command(ray_cluster, tmp_path):
    words = ("predict", "--config", "digits_pair.yaml", "--trainer.accelerator", "cpu")
    done(within(*words, "--out", "one", cwd=tmp_path))
    evidence = {"scores": {"small": {"n": 450, "deferred": 19}}}
    words += ("--policy.evidence", json.dumps(evidence), "--ray.seconds", '{"small":1,"large":20}')
    run = done(within(*words, "--engine", "ray", "--out", "two", cwd=tmp_path))
    one, two = (pq.read_table(tmp_path / out / "predictions.parquet") for out in ("one", "two"))
    assert one.schema.equals(two.schema)
    check_equal(one, two)
    assert "large        19   4.2 %" in run.stdout
    assert len(run.stderr.splitlines()) <= 1


def test_each_row_once_though_an_actor_is_killed(ray_cluster, tmp_path):
    """Also its earlier judgements come again, from the stage before."""
    policy = PolicyOptions(score="agreement", thresholds=[0.6], combine="average")
    large = Mortal(tmp_path / "killed", seed=1)
    net, data = LitCascade({"small": Net(seed=0), "large": large}, policy), points(N, Named)
    trainer().answer(net, data, tmp_path / "one", gather=2)
    net.policy = replace(net.policy, evidence={"scores": {"small": {"n": 10, "deferred": 5}}})
    pools = RayPools(RayOptions(actors=1))
    summary = trainer().answer(net, data, tmp_path / "two", gather=2, engine=pools)
    assert (tmp_path / "killed").exists(), "no actor was killed"
    one, two = (pq.read_table(tmp_path / out / "predictions.parquet") for out in ("one", "two"))
    check_equal(one, two)
    assert summary.n == N


def test_the_error_of_an_actor_is_the_error_of_the_command(ray_cluster):
    @ray_cluster.remote
    def fails():
        raise CascadeError("stage 'large' gave NaN or infinite logits.")

    @ray_cluster.remote
    def breaks():
        raise ValueError("of a library\nin two lines")

    for function, message in (
        (fails, r"^stage 'large' gave NaN or infinite logits\.$"),
        (breaks, r"^ray: a stage failed: in two lines$"),
    ):
        with pytest.raises(CascadeError, match=message), on_ray.one_error():
            ray_cluster.get(function.remote())


def test_a_cluster_that_is_too_small(ray_cluster, tmp_path):
    net = LitCascade({"small": Net(seed=0), "large": Net(9)}, [0.5])
    net.policy = replace(net.policy, evidence={"scores": {"small": {"n": 10, "deferred": 5}}})
    pools = RayPools(RayOptions(actors=9))
    with pytest.raises(CascadeError, match="the cluster has 3 CPUs and 0 GPUs, too few for 9 of"):
        trainer().answer(net, points(N), tmp_path, engine=pools)
