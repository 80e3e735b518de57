"""The bootstrap over samples (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993)."""

from __future__ import annotations

import torch
from torch import Tensor


def resampled_counts(
    n: int, resamples: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw resamples of N samples with replacement.

    Returns:
        Multiplicity of each sample in each resample, (R, N).

    Examples:
        >>> resampled_counts(4, 2, torch.Generator().manual_seed(0)).sum(dim=1)
        tensor([4., 4.], dtype=torch.float64)
    """
    drawn = torch.randint(n, (resamples, n), generator=generator)
    counts = torch.zeros(resamples, n, dtype=dtype)
    return counts.scatter_add_(1, drawn, torch.ones(1, 1, dtype=dtype).expand_as(drawn))


def percentile_interval(values: Tensor) -> tuple[float, float]:
    """Return the middle 95 % of values over resamples, (R,)."""
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high
