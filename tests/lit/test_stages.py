"""Batches that do not fit into memory run in parts."""

import pytest
import torch
from torch import nn

from lit_cascade import CascadeError, LitZoo, Stage
from lit_cascade.lit.stages import AdaptiveForward, least_by_stage
from lit_cascade.live.batch import Views
from tests.lit.cascades import points, trainer
from tests.toys import Net


def test_the_fewest_count_of_what_several_say():
    assert least_by_stage([{"a": 4}, {}, {"a": 2, "b": 8}, {"a": 3}]) == {"a": 2, "b": 8}


MESSAGES = (
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED.",
)


class Crowded(nn.Module):
    """Takes so many samples at a time, and no more."""

    def __init__(self, room, message=MESSAGES[0]):
        super().__init__()
        self.room, self.message, self.seen = room, message, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.room:
            raise RuntimeError(self.message)
        return torch.stack([x.sum(dim=1), x[:, 0]], dim=1)


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize(("room", "size"), [(1, 1), (2, 2), (4, 3), (5, 5), (10, None), (11, None)])
def test_a_batch_is_halved_until_it_fits(room, size, message):
    x, model, run = torch.randn(10, 3), Crowded(room, message), AdaptiveForward()
    assert torch.equal(run(model, x, "net"), Crowded(10)(x))
    assert run.size == size
    assert max(model.seen[-((10 - 1) // (size or 10) + 1) :]) <= room


def test_the_size_is_kept_for_the_batches_that_follow():
    model, run = Crowded(4), AdaptiveForward()
    run(model, torch.randn(16, 3), "net")
    model.seen.clear()
    for n in (16, 3, 5):
        assert len(run(model, torch.randn(n, 3), "net")) == n
    assert model.seen == [4] * 4 + [3] + [4, 1]


@pytest.mark.parametrize("kind", [tuple, Views])
def test_parts_keep_the_structure_of_a_batch(kind):
    x, model = torch.randn(6, 3), Crowded(2)
    inputs = (x,) if kind is tuple else Views({"": x})
    assert torch.equal(AdaptiveForward()(model, inputs, "net"), Crowded(6)(x))


def test_a_single_sample_that_does_not_fit_is_one_clear_error():
    with pytest.raises(CascadeError, match=r"net: out of memory even for a single sample: CUDA"):
        AdaptiveForward()(Crowded(0), torch.randn(4, 3), "net")


def test_other_errors_are_not_taken_for_it():
    wrong = Crowded(1, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        AdaptiveForward()(wrong, torch.ones(4, 3), "net")


def test_every_model_starts_with_whole_batches():
    class Small(Net):
        def forward(self, x):
            if len(x) > 2:
                raise torch.OutOfMemoryError(MESSAGES[0])
            return super().forward(x)

    zoo = LitZoo({"small": Stage(Small), "net": Stage(Net)})
    found = {}
    for name in zoo.stages:
        zoo.select(name)
        (found[name],) = trainer().record(zoo, points())
        zoo.release()
    assert found["small"].info["samples_per_forward"] == 2
    assert "samples_per_forward" not in found["net"].info
    torch.testing.assert_close(found["small"].logits, found["net"].logits)
