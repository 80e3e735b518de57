import gc
import itertools
import weakref

import pytest
import torch
from torch import nn

from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import replay
from lit_cascade.core.policy import Policy
from lit_cascade.errors import UsageError
from lit_cascade.live.cascade import Cascade
from lit_cascade.live.stream import Stream


class Table(nn.Module):
    """Gives the logits that it holds for a sample's number, so that batches change no digit."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits
        self.sizes = []

    def forward(self, numbers):
        self.sizes.append(len(numbers))
        return self.logits[numbers.reshape(len(numbers), -1)[:, 0]]


def tables(stages, n=203, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, classes, generator=generator) * (k + 1) for k in range(stages)]


def streamed(cascade, numbers, size, **settings):
    found = list(Stream(cascade, **settings).run(numbers.split(size)))
    assert [len(one.output.stage) for one in found] == [len(part) for part in numbers.split(size)]
    return [torch.cat(column) for column in zip(*(one.output for one in found), strict=True)]


@pytest.mark.parametrize(
    ("score", "combine"),
    [*itertools.product(("max_softmax", "agreement"), COMBINATIONS), ("max_logit_pnorm", "later")],
)
@pytest.mark.parametrize(
    ("stages", "size", "gather"), [(2, 16, 1), (2, 7, 4), (3, 10, 3), (4, 1, 50)]
)
def test_gives_the_answers_of_the_replay_in_order(combine, score, stages, size, gather):
    logits, inf = tables(stages), float("inf")
    norms = (3,) * (stages - 1) if score == "max_logit_pnorm" else ()
    for threshold in (0.9, 1.3, inf) if score == "agreement" else (-inf, 0.5, 0.8, inf):
        policy = Policy((threshold,) * (stages - 1), score, combine=combine, norms=norms)
        cascade = Cascade([Table(stage) for stage in logits], policy)
        numbers = torch.randperm(203, generator=torch.Generator().manual_seed(1))
        found = streamed(cascade, numbers, size, gather=gather)
        expected = replay([one[numbers] for one in logits], policy)
        assert found[2].tolist() == expected.stage.tolist()
        assert found[1].tolist() == expected.prediction.tolist()
        whole = cascade(numbers)
        assert torch.equal(found[0], whole.logits)
        assert torch.equal(found[3], whole.score)


def test_later_stages_run_on_full_batches():
    logits = tables(2, n=1000)
    small, large = Table(logits[0]), Table(logits[1])
    threshold = logits[0].softmax(1).amax(1).quantile(0.3).item()
    cascade = Cascade([small, large], Policy((threshold,)))
    streamed(cascade, torch.arange(1000), 20, gather=25)
    assert small.sizes == [20] * 50
    assert sum(large.sizes) == 300
    assert sum(size != 20 for size in large.sizes) <= 2, "one rest for each of two windows"
    large.sizes.clear()
    streamed(cascade, torch.arange(1000), 20, gather=25, batch_size=50)
    assert max(large.sizes) == 50
    assert sum(size != 50 for size in large.sizes) <= 2


def test_windows_alone_decide_which_samples_share_a_batch():
    """Dealt to processes window by window, every batch is composed as in a single process."""
    logits = tables(3, n=400)

    def compositions(numbers):
        seen = []

        class Noting(Table):
            def forward(self, numbers):
                seen.append((len(self.logits), tuple(numbers.tolist())))
                return super().forward(numbers)

        cascade = Cascade([Noting(stage) for stage in logits], Policy((0.7, 0.9)))
        streamed(cascade, numbers, 10, gather=5)
        return seen

    whole = compositions(torch.arange(400))
    windows = [torch.arange(400)[start : start + 50] for start in range(0, 400, 50)]
    dealt = [compositions(torch.cat(windows[rank::3])) for rank in range(3)]
    assert sorted(whole) == sorted(itertools.chain(*dealt))
    assert all(list(batch) == sorted(batch) for _, batch in whole), "in the order of the stream"


def test_fetched_inputs_are_asked_for_by_tag_and_only_where_deferred():
    logits = tables(3)
    asked = []

    def fetch(k, batches):
        asked.append((k, [len(batch) for batch in batches]))
        for batch in batches:
            yield torch.tensor(batch)[:, None] - 1000

    policy = Policy((0.6, 0.7))
    cascade = Cascade([Table(stage) for stage in logits], policy)
    stream = Stream(cascade, gather=4, fetch=fetch)
    found = []
    for part in torch.arange(203).split(10):
        found += stream.push(part, tags=part + 1000)
    found += stream.flush()
    stage = torch.cat([one.output.stage for one in found])
    expected = replay(logits, policy)
    assert stage.tolist() == expected.stage.tolist()
    assert torch.cat([one.output.prediction for one in found]).equal(expected.prediction)
    for k in (1, 2):
        sizes = [size for stage_asked, batches in asked if stage_asked == k for size in batches]
        assert sum(sizes) == int((expected.stage >= k).sum())
        assert max(sizes) <= 10


def test_a_stage_that_is_not_fetched_keeps_its_inputs():
    logits = tables(3)

    def fetch(k, batches):
        assert k == 2
        return (torch.tensor(batch) for batch in batches)

    cascade = Cascade([Table(stage) for stage in logits], Policy((0.6, 0.7)))
    _, prediction, *_ = streamed(cascade, torch.arange(203), 10, fetch=fetch, fetched=[2])
    assert prediction.equal(replay(logits, cascade.policy).prediction)


def test_what_was_observed_stays_with_its_sample():
    logits = tables(2)
    cascade = Cascade([Table(stage) for stage in logits], Policy((0.6,)))
    stream = Stream(cascade, gather=3, observe=lambda k, x: x.double()[:, None] + 1000 * k)
    found = list(stream.run(torch.arange(203).split(10)))
    stage = replay(logits, cascade.policy).stage
    first = torch.cat([one.seen[0] for one in found])
    second = torch.cat(
        [
            torch.zeros(len(one.output.stage), 1) if one.seen[1] is None else one.seen[1]
            for one in found
        ]
    )
    assert first.squeeze(1).tolist() == list(range(203))
    assert second.squeeze(1).tolist() == [(1000.0 + i) * int(stage[i]) for i in range(203)]


def test_batches_of_different_shapes_are_not_mixed():
    """Texts of several lengths: each batch has its own padding."""
    logits = tables(2)
    large = Table(logits[1])
    cascade = Cascade([Table(logits[0]), large], Policy((float("inf"),)))
    batches = [
        {"numbers": part[:, None].expand(-1, 3 + (i // 2) % 2)}
        for i, part in enumerate(torch.arange(80).split(10))
    ]
    found = list(Stream(cascade, gather=8).run(batches))
    assert torch.cat([one.output.logits for one in found]).equal(logits[1][:80])
    assert large.sizes == [10] * 8


def test_memory_does_not_grow_with_the_stream():
    logits = tables(2, n=5000)
    cascade = Cascade([Table(stage) for stage in logits], Policy((float("inf"),)))
    alive, most = [], 0
    stream = Stream(cascade, gather=2)
    for part in torch.arange(5000).split(50):
        inputs = part[:, None].clone()
        alive.append(weakref.ref(inputs))
        for _ in stream.push(inputs):
            pass
        del inputs
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
    assert most <= 4


def test_a_wait_closes_a_window_early(monkeypatch):
    logits = tables(2)
    large = Table(logits[1])
    cascade = Cascade([Table(logits[0]), large], Policy((float("inf"),)))
    clock = itertools.count()
    monkeypatch.setattr("lit_cascade.live.stream.time.monotonic", lambda: float(next(clock)))
    streamed(cascade, torch.arange(200), 10, gather=100, batch_size=1000, wait=3.0)
    assert 2 < len(large.sizes) < 20
    assert sum(large.sizes) == 200


def test_an_empty_stream_and_wrong_sizes():
    cascade = Cascade([Table(stage) for stage in tables(2)], Policy((0.5,)))
    assert list(Stream(cascade).run([])) == []
    with pytest.raises(UsageError, match=r"gather: expected at least 1, got 0"):
        Stream(cascade, gather=0)
    with pytest.raises(UsageError, match=r"batch_size: expected at least 1, got -1"):
        Stream(cascade, batch_size=-1)


class Reusing(nn.Module):
    """Hands out the same memory for every batch, as a captured graph does."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.memory = inner, torch.zeros(64, 3)

    def forward(self, x):
        return self.memory[: len(x)].copy_(self.inner(x))


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_a_stage_may_hand_out_the_same_memory_again(combine):
    torch.manual_seed(0)
    plain = [nn.Linear(4, 3) for _ in range(3)]
    policy = Policy((0.5, 0.6), combine=combine)
    batches = torch.randn(100, 4).split(16)
    with torch.no_grad():
        wanted = list(Stream(Cascade(plain, policy)).run(batches))
        found = list(Stream(Cascade([Reusing(one) for one in plain], policy)).run(batches))
    for one, other in zip(wanted, found, strict=True):
        assert all(map(torch.equal, one.output, other.output))
