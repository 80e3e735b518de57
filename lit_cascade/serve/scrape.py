"""Counts of a served cascade, read from what it exposes to Prometheus."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.serve.metrics import AUDITS, COST, POLICY, SAMPLES, SCORE, score_buckets

_COUNTED = (SAMPLES, AUDITS, f"{SCORE}_bucket")


@dataclass(frozen=True)
class Scrape:
    """Counters of a server since it started.

    Attributes:
        counters: value of each counter, by its name and labels as text.
        fingerprint: of the policy that is served; `Policy.fingerprint`.
        costs: cost per sample of each stage, by unit.
    """

    counters: dict[str, float]
    fingerprint: str
    costs: dict[str, dict[str, float]] = field(default_factory=dict)

    def since(self, earlier: Mapping[str, float] | None) -> Scrape:
        """What was counted since an earlier scrape.

        If any counter has fallen, the server was started again in between, and all of its counts
        are new, as Prometheus sees it.

        Args:
            earlier: counters of that scrape; None if there is none.
        """
        if earlier is None or any(self.counters.get(key, 0) < n for key, n in earlier.items()):
            return self
        counters = {key: n - earlier.get(key, 0) for key, n in self.counters.items()}
        return Scrape(counters, self.fingerprint, self.costs)

    @classmethod
    def sum(cls, scrapes: Sequence[Scrape]) -> Scrape:
        """What several servers of one policy have counted together."""
        counters: Counter[str] = Counter()
        for one in scrapes:
            counters.update(one.counters)
        return cls(dict(counters), scrapes[0].fingerprint, scrapes[0].costs)

    def samples(self, names: Sequence[str], outcome: str) -> list[int]:
        """Number of samples that each stage has `answered` or `deferred`."""
        return [int(self._of(SAMPLES, stage=name, outcome=outcome)) for name in names]

    def audits(self, names: Sequence[str]) -> tuple[int, int]:
        """Number of audited answers of some stages, and how many of them the last stage denies."""
        denied, agreed = (
            sum(int(self._of(AUDITS, stage=name, outcome=outcome)) for name in names)
            for outcome in ("disagreed", "agreed")
        )
        return denied + agreed, denied

    def below(self, stage: str, edges: Sequence[float]) -> list[int] | None:
        """Number of scores of a stage below each edge; None where the server does not count them.

        Args:
            stage: name of the stage.
            edges: some of those in the evidence of the policy.
        """
        evidence = {"scores": {stage: {"edges": edges}}}
        keys = [
            _key(f"{SCORE}_bucket", {"stage": stage, "le": repr(bound)})
            for bound in score_buckets(evidence, stage)
        ]
        if not all(key in self.counters for key in keys):
            return None
        return [int(self.counters[key]) for key in keys]

    def _of(self, name: str, **labels: str) -> float:
        return self.counters.get(_key(name, labels), 0.0)


def read_scrape(text: str, where: str) -> Scrape:
    """Read what a server exposes.

    Args:
        text: in Prometheus' text format.
        where: what it was read from, for messages.

    Raises:
        UsageError: it is something else, or prometheus-client is not installed.
        CascadeError: the processes of the server run different policies.
    """
    counters: dict[str, float] = {}
    costs: dict[str, dict[str, float]] = {}
    policies: set[str] = set()
    for name, labels, value in _samples(text, where):
        if name in _COUNTED:
            key = _key(name, _canonical(labels))
            counters[key] = counters.get(key, 0.0) + value
        elif name == COST:
            costs.setdefault(labels.get("unit", ""), {})[labels.get("stage", "")] = value
        elif name == POLICY:
            policies.add(labels.get("fingerprint", ""))
    if not policies:
        raise UsageError(
            f"metrics: {where} does not tell its policy ({POLICY}); expected /metrics of "
            "`lit-cascade serve`."
        )
    if len(policies) > 1:
        raise CascadeError(f"metrics: {where} tells of {len(policies)} policies; expected one.")
    return Scrape(counters, policies.pop(), costs)


def _samples(text: str, where: str) -> list[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each sample.

    Raises:
        UsageError: the text is something else, or prometheus-client is not installed.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "metrics: reading them needs prometheus-client: pip install 'lit-cascade[serve]'."
        ) from error
    try:
        families = list(text_string_to_metric_families(text))
    except (ValueError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(
            f"metrics: {where} is not in Prometheus' text format: {reason}."
        ) from error
    found = [(one.name, one.labels, float(one.value)) for f in families for one in f.samples]
    for name, _, value in found:
        if name in _COUNTED and not 0 <= value < math.inf:
            raise UsageError(f"metrics: {where} counts {value} of {name}.")
    return found


def _canonical(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels with bounds of buckets as Python writes them."""
    return {name: repr(float(v)) if name == "le" else v for name, v in labels.items()}


def _key(name: str, labels: Mapping[str, Any]) -> str:
    return f"{name}{sorted(labels.items())}"
