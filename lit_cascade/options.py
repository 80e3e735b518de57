"""Options that several commands share. Their docstrings are what `--help` prints.

Nothing here imports torch, not even for type checkers (jsonargparse runs such imports), so that
help stays fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lit_cascade.errors import UsageError, check_name

__all__ = ["Combination", "PolicyOptions", "ScoreName", "by_stage"]

ScoreName = Literal["max_softmax", "margin", "negative_entropy", "learned"]
Combination = Literal["later", "average", "most_confident"]


def by_stage(
    values: Mapping[str, float] | Sequence[float] | None,
    names: Sequence[str],
    argument: str,
    default: float | None,
) -> tuple[float, ...] | None:
    """One number per stage, from numbers by stage name or in stage order.

    Args:
        values: what the user gave.
        names: the stages that want a number.
        argument: its name, for messages.
        default: for stages that a mapping leaves out; None means that each must be named.

    Returns:
        A tuple as long as `names`, or None if nothing was given.

    Raises:
        UsageError: an unknown stage, a missing one, or a wrong length.

    Example:
        >>> by_stage({"small": 1.5}, ["small", "large"], "temperatures", default=1.0)
        (1.5, 1.0)
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        for name in values:
            check_name(name, names, argument)
        missing = [name for name in names if name not in values]
        if missing and default is None:
            raise UsageError(
                f"{argument}: nothing is given for {', '.join(missing)}; "
                f"expected a number for each of {', '.join(names)}."
            )
        return tuple(float(values.get(name, default)) for name in names)  # type: ignore[arg-type]
    if len(values) != len(names):
        raise UsageError(
            f"{argument}: expected one number for each of {', '.join(names)}, got {len(values)}."
        )
    return tuple(float(value) for value in values)


@dataclass
class PolicyOptions:
    """What decides which stage answers.

    Args:
        score: confidence score: max_softmax (0 to 1), margin between the two best classes (0 to 1),
            negative_entropy (at most 0, in nats), or learned (-1 to 0), which needs heads.
        thresholds: a stage answers where its score is at least its threshold, by stage name or in
            stage order, for every stage but the last; -inf never defers, inf always does.
        temperatures: logits are divided by these before they are scored, by stage name (others
            are 1) or in stage order.
        combine: whose answer counts after a deferral: the later stage's, the average of the
            probabilities of the stages that ran, or that of the most confident of them.
        floors: a stage also answers where its score is below its floor, since a hopeless sample is
            not worth another stage; by stage name (others have none) or in stage order.
        heads: numbers of the learned score, by stage name; written by calibrate --learn_score.
        evidence: what the numbers were fitted on; written by calibrate, select and search.
    """

    score: ScoreName = "max_softmax"
    thresholds: dict[str, float] | list[float] | None = None
    temperatures: dict[str, float] | list[float] | None = None
    combine: Combination = "later"
    floors: dict[str, float] | list[float] | None = None
    heads: dict[str, dict[str, Any]] | None = None
    evidence: dict[str, Any] | None = None

    def temperatures_of(self, names: Sequence[str]) -> tuple[float, ...]:
        """One temperature per stage.

        Raises:
            UsageError: an unknown stage or a wrong length.
        """
        found = by_stage(self.temperatures, names, "policy.temperatures", default=1.0)
        for temperature in found or ():
            if not 0 < temperature < math.inf:
                raise UsageError(
                    f"policy.temperatures: expected finite numbers above 0, got {temperature}."
                )
        return (1.0,) * len(names) if found is None else found

    def thresholds_of(self, names: Sequence[str]) -> tuple[float, ...] | None:
        """One threshold per stage but the last, or None if none are given.

        Raises:
            UsageError: an unknown stage, a missing one, or a wrong length.
        """
        return by_stage(self.thresholds, names[:-1], "policy.thresholds", default=None)

    def floors_of(self, names: Sequence[str]) -> tuple[float, ...]:
        """One floor per stage but the last; -inf where none is given.

        Raises:
            UsageError: an unknown stage or a wrong length.
        """
        found = by_stage(self.floors, names[:-1], "policy.floors", default=-math.inf)
        return found or (-math.inf,) * (len(names) - 1)

    def heads_of(self, names: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
        """Numbers of a head per stage but the last where the score is learned; none otherwise.

        Raises:
            UsageError: an unknown stage, or none for a stage that defers.
        """
        if self.score != "learned":
            return ()
        held = self.heads or {}
        for name in held:
            check_name(name, names[:-1], "policy.heads")
        missing = [name for name in names[:-1] if not held.get(name)]
        if missing:
            raise UsageError(
                f"policy.heads: the score learned needs a head for {', '.join(missing)}; "
                "`lit-cascade calibrate --learn_score` fits them and writes them."
            )
        return tuple(held[name] for name in names[:-1])
