"""Quality of a score by enumeration of all orders of the samples."""

import itertools
from statistics import mean


def orders(scores):
    """All orders by increasing score, with tied samples in every order."""
    groups = [[i for i, own in enumerate(scores) if own == value] for value in sorted(set(scores))]
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield [i for part in parts for i in part]


def accuracies(order, small, large):
    """Accuracy with the first 0, 1, ..., N samples of an order deferred."""
    n = len(order)
    return [
        sum(large[i] if i in order[:d] else small[i] for i in range(n)) / n for d in range(n + 1)
    ]


def trapezoid(heights):
    """Area under a curve of evenly spaced heights on [0, 1]."""
    return mean((a + b) / 2 for a, b in itertools.pairwise(heights))


def slow_quality(scores, small, large):
    """Area scaled between random and oracle deferral; None where they coincide."""
    n = len(scores)
    own = mean(trapezoid(accuracies(order, small, large)) for order in orders(scores))
    chance = (sum(small) + sum(large)) / n / 2
    best = max(
        trapezoid(accuracies(order, small, large)) for order in itertools.permutations(range(n))
    )
    return (own - chance) / (best - chance) if best - chance > 1e-12 else None


def slow_aurc(scores, correct):
    """Mean risk over all coverages, over all orders of tied samples."""
    return mean(
        mean(mean(not correct[i] for i in order[-k:]) for k in range(1, len(order) + 1))
        for order in orders(scores)
    )


def slow_cost_ratio(scores, correct, costs):
    """Smallest cost ratio at no loss of accuracy; 1 if none is cheaper."""
    last = sum(large for _, large in costs)
    wanted = sum(large for _, large in correct)
    found = [1.0]
    for threshold in [float("-inf"), *scores, float("inf")]:
        right = sum(pair[own < threshold] for own, pair in zip(scores, correct, strict=True))
        spent = sum(
            small + (large if own < threshold else 0)
            for own, (small, large) in zip(scores, costs, strict=True)
        )
        if right >= wanted:
            found.append(spent / last)
    return min(found)
