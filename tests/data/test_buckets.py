"""Batches of similar length: every sample once, in any number of processes."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.connectors.data_connector import _request_dataloader
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.data import _update_dataloader
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from lit_cascade.data.buckets import LengthBuckets
from lit_cascade.data.loading import evaluation_loader


def some_lengths(n, most=60):
    return np.random.default_rng(n).integers(1, most, n, endpoint=True).tolist()


def buckets(n, size, sampler=SequentialSampler, drop_last=False, lengths=None, **options):
    lengths = some_lengths(n) if lengths is None else lengths
    return LengthBuckets(sampler(range(n)), size, drop_last, lengths=lengths, **options)


def flat(batches):
    return [i for batch in batches for i in batch]


def padding(batches, lengths):
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths[i] for i in flat(batches)) / padded


@pytest.mark.parametrize("size", [1, 4, 7, 100])
@pytest.mark.parametrize("n", [1, 21, 40])
def test_what_is_judged_is_sorted_the_longest_first_and_kept_in_order(n, size):
    lengths = some_lengths(n, most=9)
    batches = list(buckets(n, size, lengths=lengths))
    expected = sorted(range(n), key=lambda i: (-lengths[i], i))
    assert flat(batches) == expected
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert len(buckets(n, size)) == len(batches) == -(-n // size)


@pytest.mark.parametrize("sampler", [SequentialSampler, RandomSampler])
@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_each_sample_comes_once(sampler, size):
    found = list(buckets(403, size, sampler))
    assert sorted(flat(found)) == list(range(403))
    assert len(found) == len(buckets(403, size, sampler))
    assert max(map(len, found)) <= size


@pytest.mark.parametrize("sampler", [SequentialSampler, RandomSampler])
def test_only_whole_batches_where_the_last_is_dropped(sampler):
    made = buckets(403, 8, sampler, drop_last=True)
    found = list(made)
    assert {len(batch) for batch in found} == {8}
    assert len(made) == len(found) == 50
    assert len(set(flat(found))) == 400


def test_what_is_dropped_in_training_is_any_and_not_the_shortest():
    lengths = list(range(403))
    dropped = set()
    for _ in range(5):
        found = list(buckets(403, 8, RandomSampler, drop_last=True, lengths=lengths))
        dropped |= set(range(403)) - set(flat(found))
    assert len(dropped) > 8
    assert max(dropped) > 100


def test_training_batches_are_of_similar_length_and_in_no_order():
    n, size = 1000, 10
    lengths = some_lengths(n)
    found = list(buckets(n, size, RandomSampler, lengths=lengths))
    plain = [list(range(i, i + size)) for i in range(0, n, size)]
    assert padding(found, lengths) < 0.06
    assert padding(plain, lengths) > 0.3
    longest = [max(lengths[i] for i in batch) for batch in found]
    rising = sum(a <= b for a, b in pairwise(longest))
    assert 30 < rising < 70


def test_training_batches_are_others_in_every_epoch():
    for n in (200, 2000):  # less and more than a group of 50 batches
        made = buckets(n, 10, RandomSampler, lengths=list(range(n)))
        first, second = ({frozenset(batch) for batch in made} for _ in range(2))
        assert len(first & second) < n / 100
    drawn = torch.randperm(200).tolist()
    constant = LengthBuckets(drawn, 10, False, lengths=some_lengths(200))
    first, second = list(constant), list(constant)
    assert sorted(first) == sorted(second)
    assert first != second


def test_the_same_seed_gives_the_same_batches():
    found = []
    for torch_seed, seed in ((1, 5), (1, 5), (2, 5), (1, 6)):
        torch.manual_seed(torch_seed)
        found.append(list(buckets(200, 10, RandomSampler, seed=seed)))
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert sorted(map(sorted, found[0])) == sorted(map(sorted, found[3]))
    assert found[0] != found[3]


def test_other_samplers_shuffle_and_parts_stay_parts():
    made = LengthBuckets(SubsetRandomSampler(range(50, 90)), 7, False, lengths=some_lengths(100))
    assert sorted(flat(made)) == list(range(50, 90))
    unshuffled = DistributedSampler(range(41), 2, 1, shuffle=False)
    lengths = some_lengths(41)
    found = flat(LengthBuckets(unshuffled, 7, False, lengths=lengths))
    assert [lengths[i] for i in found] == sorted((lengths[i] for i in unshuffled), reverse=True)


# Lightning


class Source:
    """What a data module is to Lightning."""

    def __init__(self, n, size, sampler, lengths):
        self.made = lambda: DataLoader(
            range(n),
            batch_sampler=buckets(n, size, sampler, lengths=lengths, seed=3),
        )

    def dataloader(self):
        return self.made()


@pytest.mark.parametrize("size", [1, 5, 8])
def test_lightning_shares_training_samples_out(size):
    n = 1001
    lengths = some_lengths(n)
    loaders = []
    for rank in range(2):
        loader = _request_dataloader(Source(n, size, RandomSampler, lengths))
        sampler = DistributedSampler(loader.dataset, 2, rank, shuffle=True, seed=7)
        loaders.append(_update_dataloader(loader, sampler, RunningStage.TRAINING))
    samplers = [loader.batch_sampler for loader in loaders]
    assert all(isinstance(one, LengthBuckets) for one in samplers)
    assert all(one.lengths is lengths for one in samplers)
    epochs = []
    for epoch in range(2):
        for one in samplers:
            one.sampler.set_epoch(epoch)
        shares = [[batch.tolist() for batch in loader] for loader in loaders]
        assert len(shares[0]) == len(shares[1]) == len(loaders[0])
        counts = torch.bincount(torch.tensor(flat(shares[0]) + flat(shares[1])), minlength=n)
        assert sorted(counts.tolist()) == [1] * (n - 1) + [2]  # 1002 of 1001
        # in each step both have batches of similar length
        steps = zip(*([max(lengths[i] for i in b) for b in share] for share in shares), strict=True)
        assert sum(abs(a - b) for a, b in steps) / len(shares[0]) < 8
        epochs.append(shares)
    assert epochs[0] != epochs[1]


def test_lightning_predicts_all_in_order():
    loader = _request_dataloader(Source(23, 5, SequentialSampler, some_lengths(23)))
    found = _update_dataloader(loader, SequentialSampler(range(23)), RunningStage.PREDICTING)
    assert flat(batch.tolist() for batch in found) == flat(loader.batch_sampler)


# evaluation


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 7, 40])
@pytest.mark.parametrize("n", [1, 21, 40])
def test_whole_batches_are_dealt_for_evaluation(n, size, processes):
    made = buckets(n, size)
    loader = DataLoader([(i, i) for i in range(n)], batch_sampler=made)
    seen, batches = [], []
    for rank in range(processes):
        for inputs, positions, *_ in evaluation_loader(loader, rank, processes):
            mine = positions[positions >= 0].tolist()
            seen += mine
            if mine:
                assert inputs[0].tolist() == mine
                batches.append(mine)
    assert sorted(seen) == list(range(n))
    assert sorted(batches) == sorted(made)


def test_what_is_trained_on_is_judged_in_order(tmp_path):
    """Else a record of the training split would not be the same twice."""
    lengths = some_lengths(23)
    for sampler in (RandomSampler, lambda data: SubsetRandomSampler(list(data)[4:9])):
        shuffled = buckets(23, 4, sampler, lengths=lengths)
        loader = evaluation_loader(DataLoader(range(23), batch_sampler=shuffled))
        chosen = sorted(int(i) for i in shuffled.sampler)
        expected = sorted(chosen, key=lambda i: -lengths[i])
        assert loader.sampler.batches == [expected[i : i + 4] for i in range(0, len(chosen), 4)]
