"""Search of the Pareto front of all cascades of a zoo."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from lit_cascade.core.search.grids import add_grids, nearest_in_cascades, nearest_in_pairs
from lit_cascade.core.search.pairs import Progress, add_pairs
from lit_cascade.core.search.points import CascadeFront, ParetoArchive
from lit_cascade.core.search.votes import add_votes
from lit_cascade.core.search.zoo import Zoo
from lit_cascade.errors import CascadeError, UsageError

# Points of all pairs, and of all triples at a coarse grid, that take a second or two.
_POINTS = 2**25
_CELLS = 2**22
_COARSE = 48
_FOURTHS = 16


@dataclass(frozen=True)
class SearchSettings:
    """Extent and resolution of a search.

    Attributes:
        stages: the most stages of a cascade, 2 to 4.
        levels: thresholds per pair; by default every distinct one in a small zoo, and 1,000 if
            those would take long.
        window: floors to try under each threshold of a pair; 0 tries none.
        candidates: number of models from which cascades of more than two are made: those that pairs
            bring nearest to the front. All of their cascades are tried; of four stages, those of
            the 16 models that three stages bring nearest, unless there are no confidences.
        grid: thresholds of each deferring stage of a triple; by default as many as `candidates`
            allow in a few seconds, 48 to 512. Of four stages there are about as many combinations.
        fine: the same for the cascades within `slack` of the front, which are tried again.
        slack: relative cost above the front.
        nearest: the most triples that are tried again, the nearest to the front first.

    Raises:
        UsageError: a number is out of range.
    """

    stages: int = 2
    levels: int | None = None
    window: int = 0
    candidates: int = 96
    grid: int | None = None
    fine: int = 512
    slack: float = 0.01
    nearest: int = 512

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.stages not in {2, 3, 4}:
            raise UsageError(f"stages: expected 2, 3 or 4, got {self.stages}.")
        if self.stages > 2 and self.window:
            raise UsageError("window: floors are searched for with 2 stages only; leave one out.")
        for name in ("levels", "grid", "fine"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}: expected at least 1 threshold per stage, got {value}.")
        for name in ("window", "slack", "nearest"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name}: expected at least 0, got {getattr(self, name)}.")
        if self.candidates < 3:
            raise UsageError(f"candidates: a triple needs at least 3, got {self.candidates}.")

    def thresholds_for(self, zoo: Zoo) -> int:
        """Return `levels`, or its default for a zoo."""
        return self.levels or max(1000, min(zoo.n, _POINTS // len(zoo) ** 2))


def search_zoo(
    zoo: Zoo, settings: SearchSettings | None = None, progress: Progress | None = None
) -> CascadeFront:
    """Search the front of all single models and cascades, exact at the thresholds that are tried.

    Args:
        zoo: models in order of cost; stages follow that order.
        settings: extent and resolution.
        progress: called with the share of the pairs, and then of the triples, that is done.

    Raises:
        CascadeError: fewer than two models.

    Examples:
        >>> import torch
        >>> zoo = Zoo(
        ...     names=("small", "large"),
        ...     scores=torch.tensor([[0.9, 0.2], [0.9, 0.9]]),
        ...     correct=torch.tensor([[True, False], [True, True]]),
        ...     costs=torch.tensor([[1.0], [10.0]]).double(),
        ... )
        >>> [(point.stages, point.cost, point.accuracy) for point in search_zoo(zoo).points]
        [((0,), 1.0, 0.5), ((0, 1), 6.0, 1.0)]
    """
    settings = settings or SearchSettings()
    if len(zoo) < 2:
        raise CascadeError(f"a search needs at least 2 models, got {len(zoo)}.")
    archive = ParetoArchive.of_singles(zoo)
    levels = settings.thresholds_for(zoo)
    if zoo.votes:
        if settings.stages > 2:  # a pair of which the first only votes is of no use
            models = nearest_in_pairs(zoo, archive, settings.candidates, 1)
            add_votes(zoo, archive, models, settings.stages, progress)
        return archive.front()
    add_pairs(zoo, archive, levels=levels, window=settings.window, progress=progress)
    if settings.stages < 3:
        return archive.front()
    models = nearest_in_pairs(zoo, archive, settings.candidates, 1000)
    for stages in range(3, settings.stages + 1):
        ratios = _add_cascades(zoo, archive, models, stages, settings, progress)
        models = nearest_in_cascades(ratios, _FOURTHS)
    return archive.front()


def _add_cascades(
    zoo: Zoo,
    archive: ParetoArchive,
    models: list[int],
    stages: int,
    settings: SearchSettings,
    progress: Progress | None,
) -> dict[tuple[int, ...], float]:
    """Archive all cascades of K stages of some models; those near the front at more thresholds.

    With agreement, also those whose first stages only vote: at more thresholds of the others.

    Returns:
        The least ratio of the cost of each cascade to the front's at its accuracy.
    """
    cascades = list(itertools.combinations(models, stages))
    deferring = stages - 1
    affordable = int((_CELLS / max(1, len(cascades))) ** 0.5)
    coarse = settings.grid or min(max(affordable, _COARSE), settings.fine)
    voters = range(deferring) if zoo.answers is not None else range(1)

    def levels(count: int, voting: int) -> tuple[int, ...]:
        """As many combinations of thresholds as of two stages with a count each."""
        free = deferring - voting
        each = settings.thresholds_for(zoo) if free == 1 else round(count ** (2 / free))
        return (1,) * voting + (max(each, 1),) * free

    ratios: dict[tuple[int, ...], float] = {}
    for voting in voters[: deferring - 1]:  # one free stage is fast, and tried below
        found = add_grids(zoo, archive, cascades, levels=levels(coarse, voting), progress=progress)
        ratios = {one: min(ratio, ratios.get(one, ratio)) for one, ratio in found.items()}
    near = [cascade for cascade, ratio in ratios.items() if ratio <= 1 + settings.slack]
    near = sorted(near, key=ratios.__getitem__)[: settings.nearest]
    for voting in voters:
        finer = coarse < min(settings.fine, zoo.n) or voting == deferring - 1
        if finer:
            add_grids(zoo, archive, near, levels=levels(settings.fine, voting), progress=progress)
    return ratios
