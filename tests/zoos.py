"""Zoos made by chance: each sample has a difficulty and each model a skill."""

import torch

from lit_cascade.core.search.zoo import Zoo


def synthetic_zoo(models: int, samples: int, seed: int = 0) -> Zoo:
    """Models over four orders of magnitude in cost, dearer ones more skilled by and large.

    A model is right where its skill exceeds a sample's difficulty, up to noise, and its score rises
    with the distance, up to other noise.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    cost = torch.logspace(7, 11.5, models, dtype=torch.float64) * (0.3 * noise(models)).exp()
    cost = cost.sort().values
    skill = 0.5 * (cost.log10() - 9).float() + 0.25 * noise(models)
    difficulty = 1.5 * noise(samples) - 1.5
    scores = torch.empty(models, samples)
    correct = torch.empty(models, samples, dtype=torch.bool)
    for model in range(models):
        lead = skill[model] - difficulty + 0.6 * noise(samples)
        correct[model] = lead > 0.3 * noise(samples)
        sure = 1.5 * lead.abs() * torch.where(lead > 0, 1.0, 0.5) + 0.5 * noise(samples)
        scores[model] = sure.sigmoid()
    return Zoo(tuple(f"model{m}" for m in range(models)), scores, correct, cost[:, None])
