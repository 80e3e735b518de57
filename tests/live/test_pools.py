"""Numbers of workers by the work of each stage."""

import itertools

import pytest
import torch

from lit_cascade.errors import CascadeError
from lit_cascade.live import Resources, pool_sizes

NAMES = ["a", "b", "c"]


def pace(work, counts):
    """Samples per second of the slowest stage."""
    return min(n / one if one else float("inf") for n, one in zip(counts, work, strict=True))


def all_that_fit(needs, room, most=9):
    for counts in itertools.product(range(1, most), repeat=len(needs)):
        cpus = sum(n * need.cpus for n, need in zip(counts, needs, strict=True))
        gpus = sum(n * need.gpus for n, need in zip(counts, needs, strict=True))
        if cpus <= room.cpus and gpus <= room.gpus:
            yield counts


@pytest.mark.parametrize("seed", range(30))
def test_no_other_numbers_that_fit_are_faster(seed):
    draw = torch.Generator().manual_seed(seed)
    k = 2 + seed % 2
    work = (torch.rand(k, generator=draw) * 4 + 0.05).tolist()
    gpus = torch.randint(0, 3, (k,), generator=draw).tolist()
    needs = [Resources(1.0, float(gpu) / 2) for gpu in gpus]
    room = Resources(8.0, float(torch.randint(2, 5, (1,), generator=draw)))
    try:
        found = pool_sizes(NAMES[:k], work, needs, room)
    except CascadeError:
        assert not list(all_that_fit(needs, room))
        return
    best = max(pace(work, counts) for counts in all_that_fit(needs, room))
    assert pace(work, found) == best
    assert tuple(found) in set(all_that_fit(needs, room))


def test_numbers_that_are_given_stay():
    needs = [Resources(1.0)] * 2
    assert pool_sizes(NAMES[:2], [1.0, 2.0], needs, Resources(9), [1, None]) == [1, 2]
    assert pool_sizes(NAMES[:2], [1.0, 4.0], needs, Resources(9), [4, 2]) == [4, 2]
    assert pool_sizes(NAMES[:2], [0.0, 0.0], needs, Resources(9)) == [1, 1]
    message = "the cluster has 2 CPUs and 0 GPUs, too few for 4 of 'a' with 1 CPUs and 0 GPUs each"
    with pytest.raises(CascadeError, match=message):
        pool_sizes(NAMES[:2], [1.0, 4.0], needs, Resources(2), [4, None])
