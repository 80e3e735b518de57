"""Thresholds with a finite-sample guarantee: the promise, its tests and the candidates."""

from lit_cascade.core.guarantee.bounds import bounded_p_value, paired_p_value
from lit_cascade.core.guarantee.candidates import (
    Behaviour,
    Path,
    joint_path,
    path_of,
    threshold_path,
)
from lit_cascade.core.guarantee.certify import certified, samples_needed
from lit_cascade.core.guarantee.promise import Promise

__all__ = [
    "Behaviour",
    "Path",
    "Promise",
    "bounded_p_value",
    "certified",
    "joint_path",
    "paired_p_value",
    "path_of",
    "samples_needed",
    "threshold_path",
]
