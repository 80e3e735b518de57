import pytest
import torch

from lit_cascade.core.bootstrap import percentile_interval, resampled_counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_counts_are_multiplicities_of_samples_drawn_with_replacement(dtype):
    counts = resampled_counts(7, 50, torch.Generator().manual_seed(3), dtype)
    drawn = torch.randint(7, (50, 7), generator=torch.Generator().manual_seed(3))
    assert counts.dtype == dtype
    assert counts.tolist() == [[row.count(i) for i in range(7)] for row in drawn.tolist()]


def test_blocks_of_resamples_are_those_drawn_at_once():
    one, two = (torch.Generator().manual_seed(0) for _ in range(2))
    blocks = [resampled_counts(6, size, one) for size in (3, 4, 1)]
    assert torch.cat(blocks).equal(resampled_counts(6, 8, two))


def test_the_interval_interpolates_between_sorted_values():
    values = torch.arange(101, dtype=torch.float64)[torch.randperm(101)]
    assert percentile_interval(values) == (2.5, 97.5)
    assert percentile_interval(torch.tensor([4.0])) == (4, 4)
