"""How many workers each stage of a cascade needs, so that none waits for another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import NamedTuple

from lit_cascade.core import Policy
from lit_cascade.errors import CascadeError


class Resources(NamedTuple):
    """What a worker takes, or a cluster has."""

    cpus: float
    gpus: float = 0.0


def promised_reach(policy: Policy, names: Sequence[str]) -> tuple[float, ...] | None:
    """Share of the samples that reached each stage when the policy was chosen.

    Args:
        policy: with evidence.
        names: of the stages.

    Returns:
        One share per stage, the first of them 1; None where the evidence does not tell.

    Examples:
        >>> evidence = {"scores": {"small": {"n": 200, "deferred": 30}}}
        >>> promised_reach(Policy(0.9, evidence=evidence), ["small", "large"])
        (1.0, 0.15)
    """
    scores = policy.evidence.get("scores")
    known = [scores.get(name) for name in names[:-1]] if isinstance(scores, Mapping) else [None]
    if not all(isinstance(one, Mapping) and one.get("n") for one in known):
        return None
    rates = (int(one["deferred"]) / int(one["n"]) for one in known if one is not None)
    return tuple(accumulate(rates, mul, initial=1.0))


def pool_sizes(
    names: Sequence[str],
    work: Sequence[float],
    needs: Sequence[Resources],
    room: Resources,
    given: Sequence[int | None] = (),
) -> list[int]:
    """Number of workers of each stage, with which a cluster answers the most samples per second.

    A stage of `n` workers keeps up with `n / work` samples per second, and the slowest stage
    decides. So the numbers are in the ratio of the work, `p t_large / t_small` large ones for each
    small one, as far as there is room.

    Args:
        names: of the stages, for the message.
        work: seconds of each stage per sample of the whole, its share times its seconds.
        needs: of one worker of each stage.
        room: of the cluster.
        given: numbers that are fixed, by stage; None for those to be found.

    Raises:
        CascadeError: there is no room for one worker of each stage.

    Examples:
        >>> pool_sizes(["small", "large"], [1.0, 0.1 * 20], [Resources(1)] * 2, Resources(9))
        [3, 6]
    """
    fixed = list(given) or [None] * len(names)
    counts = [1 if one is None else one for one in fixed]

    def fits(counts: Sequence[int]) -> bool:
        cpus = sum(n * one.cpus for n, one in zip(counts, needs, strict=True))
        gpus = sum(n * one.gpus for n, one in zip(counts, needs, strict=True))
        return cpus <= room.cpus + 1e-9 and gpus <= room.gpus + 1e-9

    if not fits(counts):
        asked = ", ".join(
            f"{n} of {name!r} with {one.cpus:g} CPUs and {one.gpus:g} GPUs each"
            for n, name, one in zip(counts, names, needs, strict=True)
        )
        raise CascadeError(
            f"the cluster has {room.cpus:g} CPUs and {room.gpus:g} GPUs, too few for {asked}."
        )
    while True:
        loads = [one / n for one, n in zip(work, counts, strict=True)]
        slowest = loads.index(max(loads))
        more = [n + (k == slowest) for k, n in enumerate(counts)]
        endless = not (needs[slowest].cpus or needs[slowest].gpus) or not work[slowest]
        if fixed[slowest] is not None or endless or not fits(more):
            return counts
        counts = more


def replicas(work: Sequence[float], rate: float | None = None, busy: float = 0.8) -> list[int]:
    """Number of workers of each stage that serve a rate of requests.

    Args:
        work: seconds of each stage per sample of the whole, its share times its seconds.
        rate: samples per second; by default what one worker of the stage with least work serves.
        busy: share of their time that workers may be busy at this rate.

    Examples:
        >>> replicas([0.001, 0.1 * 0.02])
        [1, 2]
        >>> replicas([0.001, 0.1 * 0.02], rate=2000)
        [3, 5]
    """
    if rate is None:
        least = min((one for one in work if one), default=0.0)
        return [max(1, round(one / least)) if least else 1 for one in work]
    return [max(1, math.ceil(rate * one / busy)) for one in work]
