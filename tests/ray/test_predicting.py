"""`predict --engine ray` on a cluster of several processes."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lit_cascade import CascadeError, LitCascade
from lit_cascade.lit import RayPools, on_ray
from lit_cascade.models import ConvNet
from lit_cascade.options import RayOptions
from tests.cli.runs import done, within
from tests.lit.cascades import points, trainer
from tests.lit.test_on_ray import check_equal
from tests.toys import Net

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
WORDS = (
    "predict", "--config", "digits_pair.yaml", "--trainer.accelerator", "cpu",
    "--policy.score", "agreement", "--policy.combine", "average",
    "--policy.thresholds.small", 0.98, "--data.batch_size", 32,
)  # fmt: skip


class Mortal(ConvNet):
    """The large stage of the digits, whose process is killed on its second batch, once."""

    def __init__(self, mark: str):
        super().__init__(side=8, widths=[32, 32, 64], strides=[1, 1, 2], scale=16)
        self.mark, self.calls = Path(mark), 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 2 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def test_each_row_once_though_an_actor_is_killed(ray_cluster, tmp_path):
    """Also what the stage before has said comes again."""
    done(within(*WORDS, "--out", "one", cwd=tmp_path))
    mortal = {"class_path": f"{__name__}.Mortal", "init_args": {"mark": str(tmp_path / "killed")}}
    evidence = {"scores": {"small": {"n": 450, "deferred": 36}}}
    words = ("--policy.evidence", json.dumps(evidence), "--ray.seconds", '{"small":1,"large":20}')
    words += ("--model.stages.large.network", json.dumps(mortal), "--gather", 1, "--ray.actors", 1)
    run = done(within(*WORDS, *words, "--engine", "ray", "--out", "two", cwd=tmp_path))
    assert (tmp_path / "killed").exists(), "no actor was killed"
    one, two = (pq.read_table(tmp_path / out / "predictions.parquet") for out in ("one", "two"))
    assert one.schema.equals(two.schema)
    check_equal(one, two)
    assert "large        36   8.0 %" in run.stdout
    assert len(run.stderr.splitlines()) <= 1
    the_error_of_an_actor_is_the_error_of_the_command(ray_cluster)
    a_cluster_that_is_too_small_is_refused(tmp_path)


def the_error_of_an_actor_is_the_error_of_the_command(ray_cluster):
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


def a_cluster_that_is_too_small_is_refused(tmp_path):
    net = LitCascade({"small": Net(seed=0), "large": Net(9)}, [0.5])
    net.policy = replace(net.policy, evidence={"scores": {"small": {"n": 10, "deferred": 5}}})
    pools = RayPools(RayOptions(actors=9))
    with pytest.raises(CascadeError, match="the cluster has 3 CPUs and 0 GPUs, too few for 9 of"):
        trainer().answer(net, points(150), tmp_path / "three", engine=pools)
