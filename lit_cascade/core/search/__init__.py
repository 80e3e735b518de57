"""The Pareto front of all cascades of two to four models of a zoo, exact in counts."""

from lit_cascade.core.search.baselines import (
    neighbour_pairs,
    oracle_pairs,
    random_pairs,
    shared_threshold,
)
from lit_cascade.core.search.front import Band, Front, average_compute_reduction, default_bands
from lit_cascade.core.search.heldout import Choose, HeldOut, HeldOutSaving, held_out, held_out_each
from lit_cascade.core.search.pairs import Progress
from lit_cascade.core.search.points import CascadeFront, CascadePoint, evaluate_points
from lit_cascade.core.search.search import SearchSettings, search_zoo
from lit_cascade.core.search.zoo import Zoo

__all__ = [
    "Band", "CascadeFront", "CascadePoint", "Choose", "Front", "HeldOut", "HeldOutSaving",
    "Progress",
    "SearchSettings", "Zoo", "average_compute_reduction", "default_bands", "evaluate_points",
    "held_out", "held_out_each", "neighbour_pairs", "oracle_pairs", "random_pairs",
    "search_zoo", "shared_threshold",
]  # fmt: skip
