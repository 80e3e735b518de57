"""Arrays that other frameworks wrote: read from files, checked, and named in messages."""

from lit_cascade.records.arrays.columns import (
    classes_from,
    correct_from,
    costs_from,
    ids_from,
    labels_from,
    score_from,
)
from lit_cascade.records.arrays.logits import logits_from, probabilities_from

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
