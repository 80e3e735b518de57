"""The policy that a user's options describe, for stages of given names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lit_cascade.core.learned import DeferralHead
from lit_cascade.core.policy import Policy, always_defer
from lit_cascade.core.scores import LEARNED, RECORDED
from lit_cascade.core.vector import VectorScaling
from lit_cascade.errors import UsageError
from lit_cascade.options import PolicyOptions

__all__ = ["policy_of", "rule_of"]


def rule_of(options: PolicyOptions, names: Sequence[str], *, recorded: bool = False) -> Policy:
    """The policy that options describe for stages of these names, but that it defers everything.

    Args:
        options: what the user gave; thresholds are not read.
        names: of the stages.
        recorded: whether scores are those that the records hold, of whatever range.

    Raises:
        UsageError: an unknown stage, a wrong length, a number out of range, or a learned score
            without heads or of records without logits.
    """
    if recorded and options.score == LEARNED.name:
        raise UsageError(
            "policy.score: learned reads logits, and these records hold scores of their own."
        )
    heads = zip(names, options.heads_of(names), strict=False)
    return always_defer(
        len(names),
        score=RECORDED.name if recorded else options.score,
        temperatures=options.temperatures_of(names),
        combine=options.combine,
        floors=options.floors_of(names),
        heads=tuple(
            DeferralHead.from_numbers(numbers, f"policy.heads.{name}") for name, numbers in heads
        ),
        vectors=tuple(parts and VectorScaling(**parts) for parts in options.vectors_of(names)),
    )


def policy_of(
    options: PolicyOptions, names: Sequence[str], *, recorded: bool = False
) -> Policy | None:
    """The policy that options describe for stages of these names; None without thresholds.

    Args:
        options: what the user gave.
        names: of the stages.
        recorded: whether thresholds are of scores that the records hold, of whatever range.

    Raises:
        UsageError: an unknown stage, a wrong length, or a number out of range.

    Example:
        >>> policy_of(PolicyOptions(thresholds={"small": 0.9}), ["small", "large"])
        Policy(thresholds=(0.9,), score='max_softmax', temperatures=(1.0, 1.0), ...)
    """
    thresholds = options.thresholds_of(names)
    if thresholds is None:
        return None
    return replace(rule_of(options, names, recorded=recorded), thresholds=thresholds)
