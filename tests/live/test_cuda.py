"""What can only be seen on a GPU; skipped where there is none."""

import pytest
import torch
from torch import nn

from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import replay
from lit_cascade.core.policy import Policy
from lit_cascade.live.cascade import Cascade
from lit_cascade.live.stream import Stream
from lit_cascade.options import PolicyOptions
from tests.live.test_stream import Table, tables

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(policy, stages, n=2000):
    logits = [stage.cuda() for stage in tables(stages, n=n)]
    return Cascade([Table(stage) for stage in logits], policy), logits


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("stages", [2, 3])
def test_a_stream_gives_the_answers_of_the_replay(combine, stages):
    policy = Policy((0.7,) * (stages - 1), combine=combine)
    cascade, logits = on_gpu(policy, stages)
    numbers = torch.randperm(2000).cuda()
    found = list(Stream(cascade, gather=3).run(numbers.split(64)))
    expected = replay([one[numbers] for one in logits], policy)
    assert torch.cat([one.output.stage for one in found]).equal(expected.stage)
    assert torch.cat([one.output.prediction for one in found]).equal(expected.prediction)


def test_decisions_never_make_the_host_wait_for_the_newest_work():
    """torch raises where anything waits for the device, other than for an event of the past."""
    cascade, _ = on_gpu(Policy((0.7, 0.8)), 3)
    batches = torch.arange(2000, device="cuda").split(64)
    list(Stream(cascade).run(batches))
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = list(Stream(cascade).run(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum(len(one.output.stage) for one in found) == 2000


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_running_for_real_agrees_with_the_records(precision):
    from tests.lit.cascades import cascade, points, trainer

    options = PolicyOptions(thresholds=[0.6])
    model, data = cascade(policy=options), points(500)
    run = {"accelerator": "gpu", "devices": 1, "precision": precision}
    records = trainer(**run).record(model, data)
    done = trainer(**run).execute(model, data)
    told = replay([record.logits for record in records], Policy((0.6,)))
    assert (done.stage == told.stage).double().mean() > 0.99, "but for ties and rounding"
    assert (done.prediction == told.prediction).double().mean() > 0.99
    assert done.flops[:, 1].gt(0).equal(done.stage > 0)


def test_a_batch_that_does_not_fit_is_run_in_parts():
    from lit_cascade.lit.stages import AdaptiveForward

    class Hungry(nn.Module):
        def forward(self, x):
            size = max(len(x) - 3, 0) * 2**40  # bytes that no GPU has
            torch.empty(size, dtype=torch.uint8, device=x.device)
            return x

    x = torch.randn(16, 5, device="cuda")
    parts = AdaptiveForward()
    assert torch.equal(parts(Hungry(), x, "hungry"), x)
    assert parts.size == 2
