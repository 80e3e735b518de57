"""Is this still the data that a policy was chosen on? Tests of scores, which need no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cascade.core.contract import answers_here
from lit_cascade.core.paths import Behaviour
from lit_cascade.errors import CascadeError

__all__ = ["Comparison", "compare_scores", "drifted", "references"]

_BINS = 20
_LEAST = 5
"""Samples per bin below which a test of the distribution says nothing."""


@dataclass(frozen=True)
class Comparison:
    """One stage on the data of the policy and on new data.

    Attributes:
        stage: its name.
        reference_rate: share of the samples that reached it and that it deferred, then.
        rate: the same on the new data.
        rate_p_value: of an equal rate (Fisher's exact test).
        scores_p_value: of an equal distribution of scores (chi-squared, over bins that held equally
            many); None where there are too few samples.
        n: number of new samples that reached it.
    """

    stage: str
    reference_rate: float
    rate: float
    rate_p_value: float
    scores_p_value: float | None
    n: int


def references(
    behaviour: Behaviour, thresholds: Sequence[float], names: Sequence[str]
) -> dict[str, Any]:
    """What new data will be compared with, by deferring stage.

    `edges` cut the scores of the samples that reached a stage into `counts` of about equal size;
    `deferred` of them went on.
    """
    found = {}
    for name, scores, deferred in _reached(behaviour, thresholds, names):
        finite = scores[scores.isfinite()].double()
        cuts = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)[1:-1]
        edges = finite.quantile(cuts).unique() if len(finite) else finite
        found[name] = {
            "n": len(scores),
            "deferred": int(deferred.sum()),
            "edges": edges.tolist(),
            "counts": _counts(scores, edges).tolist(),
        }
    return found


def compare_scores(
    behaviour: Behaviour,
    thresholds: Sequence[float],
    names: Sequence[str],
    reference: Mapping[str, Any],
) -> list[Comparison]:
    """Compare new data with what `references` kept, stage by stage.

    Raises:
        CascadeError: the reference is damaged or of other stages.
    """
    from scipy.stats import chi2_contingency, fisher_exact  # noqa: PLC0415 - takes half a second

    made = []
    for name, scores, deferred in _reached(behaviour, thresholds, names):
        try:
            then = reference[name]
            n, gone, counts = int(then["n"]), int(then["deferred"]), list(map(int, then["counts"]))
            edges = torch.tensor(list(map(float, then["edges"])), dtype=torch.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise CascadeError(
                f"policy.evidence.scores: expected n, deferred, edges and counts of {name!r}."
            ) from error
        here = int(deferred.sum())
        now = _counts(scores, edges)
        if len(now) != len(counts) or n < 1:
            raise CascadeError(f"policy.evidence.scores: the counts of {name!r} are damaged.")
        table = [[gone, n - gone], [here, len(scores) - here]]
        bins = [column for column in zip(counts, now.tolist(), strict=True) if sum(column)]
        enough = len(bins) > 1 and min(n, len(scores)) >= _LEAST * len(bins)
        made.append(
            Comparison(
                stage=name,
                reference_rate=gone / n,
                rate=here / max(1, len(scores)),
                rate_p_value=float(fisher_exact(table).pvalue),
                scores_p_value=float(chi2_contingency(list(zip(*bins, strict=True))).pvalue)
                if enough
                else None,
                n=len(scores),
            )
        )
    return made


def drifted(comparisons: Sequence[Comparison], confidence: float) -> bool:
    """Whether any of some comparisons shows other data, at one confidence for all (Bonferroni).

    Example:
        >>> drifted([Comparison("small", 0.2, 0.5, 1e-9, None, 100)], 0.95)
        True
    """
    values = [
        p for one in comparisons for p in (one.rate_p_value, one.scores_p_value) if p is not None
    ]
    return bool(values) and min(values) * len(values) <= 1 - confidence


def _counts(scores: Tensor, edges: Tensor) -> Tensor:
    bins = torch.searchsorted(edges, scores.double().contiguous(), right=True)
    return bins.bincount(minlength=len(edges) + 1)


def _reached(
    behaviour: Behaviour, thresholds: Sequence[float], names: Sequence[str]
) -> list[tuple[str, Tensor, Tensor]]:
    """Of each deferring stage the scores of the samples that reach it, and whether it defers."""
    found, left = [], torch.ones(len(behaviour), dtype=torch.bool)
    for name, column, threshold in zip(
        names, behaviour.scores.unbind(dim=1), thresholds, strict=False
    ):
        deferred = ~answers_here(column, threshold)
        found.append((name, column[left], deferred[left]))
        left = left & deferred
    return found
