"""Thresholds with a finite-sample guarantee: promises, p-values, candidates and certification."""

from lit_cascade.core.guarantee.bounds import rate_bounds
from lit_cascade.core.guarantee.candidates import (
    Candidates,
    candidates_of,
    joint_thresholds,
    shared_candidates,
)
from lit_cascade.core.guarantee.certify import broken_p_value, certified, samples_needed
from lit_cascade.core.guarantee.monitoring import RunningTests
from lit_cascade.core.guarantee.promise import Promise, Target

__all__ = [
    "Candidates", "Promise", "RunningTests", "Target", "broken_p_value", "candidates_of",
    "certified", "joint_thresholds", "rate_bounds", "samples_needed", "shared_candidates",
]  # fmt: skip
