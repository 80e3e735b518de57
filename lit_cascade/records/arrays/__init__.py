"""Parts of a record from arrays that other frameworks wrote into files."""

from lit_cascade.records.arrays.arguments import (
    classes_from,
    correct_from,
    costs_from,
    ids_from,
    labels_from,
    logits_from,
    probabilities_from,
    score_from,
)

__all__ = [
    "classes_from",
    "correct_from",
    "costs_from",
    "ids_from",
    "labels_from",
    "logits_from",
    "probabilities_from",
    "score_from",
]
