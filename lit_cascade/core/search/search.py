"""The Pareto front of all cascades of a zoo."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from lit_cascade.core.search.pairs import Progress, add_pairs, add_singles
from lit_cascade.core.search.points import BestSoFar, Cascades
from lit_cascade.core.search.triples import add_triples, nearest_to_the_front
from lit_cascade.core.search.zoo import Zoo
from lit_cascade.errors import CascadeError, UsageError

__all__ = ["SearchSettings", "search"]

_POINTS = 2**25
_CELLS = 2**22
"""Points of all pairs, and of all triples at a coarse grid, that take a second or two."""


@dataclass(frozen=True)
class SearchSettings:
    """How widely and how finely to search.

    Attributes:
        stages: the most stages of a cascade, 2 or 3.
        levels: thresholds per pair; by default every distinct one in a small zoo, and 1,000 where
            those would take long.
        window: floors to try under each threshold of a pair; 0 tries none.
        candidates: of how many models triples are made: of those that pairs bring nearest to the
            front. All triples of them are tried.
        grid: thresholds of each of a triple's deferring stages; by default as many as `candidates`
            allow in a few seconds, 48 to 512.
        fine: the same for the triples that come within `slack` of the front, tried again.
        slack: relative cost above the front.

    Raises:
        UsageError: a number out of range.
    """

    stages: int = 2
    levels: int | None = None
    window: int = 0
    candidates: int = 96
    grid: int | None = None
    fine: int = 512
    slack: float = 0.01

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.stages not in {2, 3}:
            raise UsageError(f"stages: expected 2 or 3, got {self.stages}.")
        if self.stages == 3 and self.window:
            raise UsageError("window: floors are searched for with 2 stages only; leave one out.")
        for name in ("levels", "grid", "fine"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}: expected at least 1 threshold per stage, got {value}.")
        for name in ("window", "slack"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name}: expected at least 0, got {getattr(self, name)}.")
        if self.candidates < 3:
            raise UsageError(f"candidates: a triple needs at least 3, got {self.candidates}.")

    def thresholds_for(self, zoo: Zoo) -> int:
        """`levels`, or what the default comes to."""
        return self.levels or max(1000, min(zoo.n, _POINTS // len(zoo) ** 2))


def search(
    zoo: Zoo, settings: SearchSettings | None = None, progress: Progress | None = None
) -> Cascades:
    """The front of all single models and cascades, exact at the thresholds that are tried.

    Args:
        zoo: in order of cost; a later stage comes after an earlier one in it.
        settings: how widely and how finely.
        progress: is told how much of the pairs, and then of the triples, is done.

    Raises:
        CascadeError: fewer than two models.

    Example:
        >>> import torch
        >>> zoo = Zoo(
        ...     names=("small", "large"),
        ...     scores=torch.tensor([[0.9, 0.2], [0.9, 0.9]]),
        ...     correct=torch.tensor([[True, False], [True, True]]),
        ...     costs=torch.tensor([[1.0], [10.0]]).double(),
        ... )
        >>> [(point.stages, point.cost, point.accuracy) for point in search(zoo).points]
        [((0,), 1.0, 0.5), ((0, 1), 6.0, 1.0)]
    """
    settings = settings or SearchSettings()
    if len(zoo) < 2:
        raise CascadeError(f"a search needs at least 2 models, got {len(zoo)}.")
    best = BestSoFar(zoo.n)
    add_singles(zoo, best)
    levels = settings.thresholds_for(zoo)
    add_pairs(zoo, best, levels=levels, window=settings.window, progress=progress)
    if settings.stages == 3:
        _add_all_triples(zoo, best, settings, progress)
    return best.front()


def _add_all_triples(
    zoo: Zoo, best: BestSoFar, settings: SearchSettings, progress: Progress | None
) -> None:
    models = nearest_to_the_front(zoo, best, settings.candidates, 1000)
    triples = list(itertools.combinations(models, 3))
    affordable = int(math.sqrt(_CELLS / max(1, len(triples))))
    grid = settings.grid or min(max(affordable, 48), settings.fine)
    ratios = add_triples(zoo, best, triples, levels=grid, progress=progress)
    if grid < min(settings.fine, zoo.n):
        near = [triple for triple, ratio in ratios.items() if ratio <= 1 + settings.slack]
        add_triples(zoo, best, near, levels=settings.fine, progress=progress)
