"""All cascades of models that say what they answer and not how sure they are.

A stage then answers where an earlier one agrees with it, or only votes: of the same models at most
two cascades are of use. What reaches a last model is a matter of who agrees with whom, and the sums
over such samples are products of matrices of zeros and ones, for all last models at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_cascade.core.search.pairs import Progress
from lit_cascade.core.search.points import ParetoArchive
from lit_cascade.core.search.zoo import Zoo

_EXACT_FLOAT = 2**24  # float32 holds every integer up to here
_VOTES = math.inf
_AGREED = 1.0
"""Score where an earlier stage gave the same answer; it is 0 elsewhere."""


def add_votes(
    zoo: Zoo,
    archive: ParetoArchive,
    models: Sequence[int],
    stages: int,
    progress: Progress | None = None,
) -> None:
    """Archive the cascades of three and of four models without confidences that are on the front.

    Of three models the first votes, and the second answers where it agrees. Of four the first
    votes, the second votes or answers where it agrees, and the third answers where it agrees with
    one of them. Any other thresholds run a stage that decides nothing.

    Args:
        zoo: models in order of cost that have answers, and scores of 0.
        archive: takes the points.
        models: rising model numbers, from which to make cascades.
        stages: 3 or 4, the most stages.
        progress: called with the number of first models done.
    """
    some = zoo.models(models)
    if some.answers is None:
        raise ValueError("votes need answers.")
    answers, numbers = some.answers, torch.tensor(models)
    sums = _Sums(some)

    def agreeing(a: int) -> Tensor:  # a row per sample: rows are gathered faster than columns
        return (answers[a + 1 :] == answers[a]).t().contiguous().to(sums.exact)

    # of each voter, sums over the samples on which each later model agrees with it
    equal = [sums.over(agreeing(a)) for a in range(len(some) - 1)]
    for a in range(len(some) - 2):
        _offer_triples(archive, sums, numbers, a, equal[a])
        if stages > 3:
            agreed = agreeing(a)
        for b in range(a + 1, len(some) - 2) if stages > 3 else ():
            apart = (answers[a] != answers[b]).nonzero().squeeze(1)
            first = sums.over(agreed[:, b - a :].index_select(0, apart), apart, b + 1)
            _offer_quadruples(archive, sums, numbers, (a, b), equal, first)
        if progress is not None:
            progress(a + 1, len(some) - 2)


class _Sums:
    """Right answers and costs of the models of a zoo, summed over sets of samples.

    Args:
        zoo: M models in order of cost.

    Attributes:
        n: number of samples.
        exact: type of zeros and ones whose sums over all samples are exact.
        mean: mean cost of each model, (M,) float64.
        all: sums over all samples, (2, M) float64.
    """

    def __init__(self, zoo: Zoo) -> None:
        self.exact = torch.float32 if zoo.n <= _EXACT_FLOAT else torch.float64
        self._right = zoo.correct.t().contiguous().to(self.exact)
        self._constant, self._costs = zoo.constant, zoo.costs.t().contiguous()
        self.n, self.mean = zoo.n, zoo.mean_cost
        self.all = torch.stack([zoo.right.double(), self.mean * self.n])

    def over(self, sets: Tensor, rows: Tensor | None = None, start: int = 0) -> Tensor:
        """Sum over sets of samples.

        Args:
            sets: 1 where each of R samples is in each of S sets, else 0, (R, S) `exact`.
            rows: the samples, (R,) int64; by default all.
            start: number of the first model to sum.

        Returns:
            Numbers of right answers and costs, (S, 2, M - start) float64.
        """
        right, costs = self._right[:, start:], self._costs[:, start:]
        if rows is not None:
            right = right.index_select(0, rows)
            costs = costs if self._constant else costs.index_select(0, rows)
        ones = sets.t()
        spent = ones.sum(1, keepdim=True) * costs if self._constant else ones.double() @ costs
        return torch.stack([(ones @ right).double(), spent], dim=1)


def _offer_triples(
    archive: ParetoArchive, sums: _Sums, numbers: Tensor, a: int, agreed: Tensor
) -> None:
    """Offer the cascades in which model `a` votes, of all later models."""
    b, c = torch.triu_indices(len(numbers) - a - 1, len(numbers) - a - 1, 1) + a + 1
    kept = agreed[b - a - 1, 0, b]
    right, spent = (sums.all - agreed)[b - a - 1, :, c].unbind(1)
    cost = sums.mean[a] + sums.mean[b] + spent / sums.n

    def describe(rows: Tensor) -> tuple[Tensor, Tensor]:
        models = [torch.full_like(rows, a), b[rows], c[rows]]
        return _described(numbers, models, [[_VOTES, _AGREED]] * len(rows))

    archive.offer((kept + right).int()[None], cost[None], describe)


def _offer_quadruples(
    archive: ParetoArchive,
    sums: _Sums,
    numbers: Tensor,
    voters: tuple[int, int],
    equal: Sequence[Tensor],
    first: Tensor,
) -> None:
    """Offer the cascades that begin with two models, of all later models.

    Args:
        archive: takes the points.
        sums: over sets of samples.
        numbers: of the models in the zoo.
        voters: the first two models, a < b.
        equal: for each model, sums over the samples on which each later model agrees with it.
        first: sums over the samples on which each later model c agrees with a and not with b,
            (C, 2, C).
    """
    a, b = voters
    start = b + 1
    same = equal[a][b - a - 1]
    everything, same_kept = sums.all[:, start:], float(same[0, b])
    same = same[:, start:]
    # samples on which c agrees with neither, and of them those on which a and b differ
    neither = everything - equal[b][:, :, start:] - first
    apart = neither - same + equal[a][b - a :, :, start:] - first
    c, d = torch.triu_indices(len(first), len(first), 1)

    # b votes too
    right = everything[0, c] - neither[c, 0, c] + neither[c, 0, d]
    before = sums.mean[a] + sums.mean[b]
    cost = before + sums.mean[start + c] + neither[c, 1, d] / sums.n
    # b answers where a agrees
    deferred = everything - same
    right_too = same_kept + (deferred[0, c] - apart[c, 0, c]) + apart[c, 0, d]
    cost_too = before + deferred[1, c] / sums.n + apart[c, 1, d] / sums.n

    def describe(rows: Tensor) -> tuple[Tensor, Tensor]:
        pair = rows % len(c)
        models = [torch.full_like(rows, a), torch.full_like(rows, b)]
        models += [start + c[pair], start + d[pair]]
        second = [_AGREED if too else _VOTES for too in (rows >= len(c)).tolist()]
        return _described(numbers, models, [[_VOTES, one, _AGREED] for one in second])

    archive.offer(torch.stack([right, right_too]).int(), torch.stack([cost, cost_too]), describe)


def _described(
    numbers: Tensor, models: Sequence[Tensor], thresholds: Sequence[Sequence[float]]
) -> tuple[Tensor, Tensor]:
    """Stages and limits as an archive takes them."""
    limits = torch.tensor(thresholds, dtype=torch.float64)
    return numbers[torch.stack(list(models), dim=1)], torch.cat(
        [limits, torch.full_like(limits, -torch.inf)], dim=1
    )
