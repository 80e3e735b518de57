"""What a served cascade counts, for Prometheus, in all of its processes together.

Each process counts in files of a folder that all share, as `prometheus_client` does it for several
processes; a scrape adds them up. What a process has counted stays when it ends.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import Counter, Histogram, generate_latest, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from lit_cascade.core import Policy, score_named
from lit_cascade.serve import metrics
from lit_cascade.serve.stage import Outcome

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of `prometheus_client` with the folder that processes share."""


class Metrics:
    """Counts of one process.

    Args:
        names: of the stages, cheapest first.
        policy: for the buckets of scores.

    Raises:
        KeyError: the folder is not set in the environment.
    """

    def __init__(self, names: Sequence[str], policy: Policy) -> None:
        self._folder = os.environ[FOLDER]
        # the class of all values is chosen when `prometheus_client` is imported, perhaps by others
        # before the folder was set
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        self._names, self._policy = tuple(names), policy

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(name, help_text, labels, registry=None)

        def histogram(name: str, help_text: str, buckets: Iterable[float]) -> Histogram:
            bounds = [*buckets, math.inf]
            return Histogram(name, help_text, ["stage"], registry=None, buckets=bounds)

        seconds, sizes = metrics.SECONDS_BUCKETS, metrics.SIZE_BUCKETS
        samples = counter(metrics.SAMPLES, "Samples of each stage by outcome.", "stage", "outcome")
        audits = counter(
            metrics.AUDITS, "Answers compared with the last stage's.", "stage", "outcome"
        )
        self._requests = counter(metrics.REQUESTS, "Requests for answers by HTTP status.", "code")
        took = histogram(metrics.STAGE_SECONDS, "Seconds of a stage for a batch.", seconds)
        waited = histogram(metrics.QUEUE_SECONDS, "Seconds that a sample waited.", seconds)
        size = histogram(metrics.BATCH_SIZE, "Samples in a batch.", sizes)
        latency = histogram(metrics.REQUEST_SECONDS, "Seconds until the answer.", seconds)
        # children are made once: looking one up takes longer than counting
        self._samples = {
            (name, outcome): samples.labels(name, outcome)
            for name in names
            for outcome in ("answered", "deferred", "failed")
        }
        self._audits = {
            (name, agreed): audits.labels(name, "agreed" if agreed else "disagreed")
            for name in names[:-1]
            for agreed in (True, False)
        }
        self._took = {name: took.labels(name) for name in names}
        self._waited = {name: waited.labels(name) for name in names}
        self._size = {name: size.labels(name) for name in names}
        self._latency = {name: latency.labels(name) for name in names}
        score = score_named(policy.score)
        self._scores = {
            name: histogram(
                metrics.SCORE,
                "Scores of the samples that a stage ran on.",
                metrics.score_buckets(policy.evidence, name, score.low, score.high),
            ).labels(name)
            for name in names[:-1]
        }

    def batch(
        self,
        stage: str,
        outcomes: Sequence[Outcome],
        audited: Sequence[str | None],
        waited: Sequence[float],
        seconds: float,
    ) -> None:
        """Count a batch that a stage ran on.

        Args:
            stage: its name.
            outcomes: of the samples.
            audited: stage whose answer a sample audits; None for samples that were to be answered.
            waited: seconds that each sample waited.
            seconds: that the batch took.
        """
        self._took[stage].observe(seconds)
        self._size[stage].observe(len(outcomes))
        scores = self._scores.get(stage)
        for outcome, answering, wait in zip(outcomes, audited, waited, strict=True):
            if answering is not None:
                if outcome.agreed is not None:
                    self._audits[answering, outcome.agreed].inc()
                continue
            self._waited[stage].observe(wait)
            kind = "deferred" if outcome.deferred else "answered"
            self._samples[stage, kind if outcome.status == 200 else "failed"].inc()
            if scores is not None and outcome.score is not None and math.isfinite(outcome.score):
                scores.observe(outcome.score)

    def request(self, code: int) -> None:
        """Count a request for answers."""
        self._requests.labels(str(code)).inc()

    def answer(self, stage: str, seconds: float) -> None:
        """Count an answer."""
        self._latency[stage].observe(seconds)

    def text(self, state: Mapping[str, Any]) -> bytes:
        """What all processes have counted, as Prometheus reads it.

        Args:
            state: of the engine: `waiting` and `costs` by stage, and `restarts` where it knows.
        """
        counted = list(MultiProcessCollector(None, self._folder).collect())  # type: ignore[no-untyped-call]
        families = [*counted, *self._gauges(counted, state)]

        class Collected:
            def collect(self) -> list[Metric]:
                return families

        return generate_latest(Collected())

    def _gauges(self, counted: Iterable[Metric], state: Mapping[str, Any]) -> Iterator[Metric]:
        def gauge(name: str, help_text: str, by_stage: Mapping[str, float]) -> Metric:
            family = GaugeMetricFamily(name, help_text, labels=["stage"])
            for stage, value in by_stage.items():
                family.add_metric([stage], value)
            return family

        names, policy = self._names, self._policy
        waiting = dict(zip(names, state["waiting"], strict=True))
        yield gauge(metrics.WAITING, "Samples that wait for a stage.", waiting)
        restarts = CounterMetricFamily(
            metrics.RESTARTS, "Workers that died and were started again.", labels=["stage"]
        )
        for name, count in zip(names, state.get("restarts", ()), strict=False):
            restarts.add_metric([name], count)
        yield restarts
        costs = GaugeMetricFamily(
            metrics.COST, "Cost of a sample at a stage.", labels=["stage", "unit"]
        )
        for name, units in zip(names, state["costs"], strict=True):
            for unit, cost in units.items():
                costs.add_metric([name, unit], cost)
        yield costs
        thresholds = dict(zip(names, policy.required_thresholds(), strict=False))
        yield gauge(metrics.THRESHOLD, "A stage answers from this score on.", thresholds)
        promised = {name: metrics.promised_deferral(policy.evidence, name) for name in names[:-1]}
        yield gauge(
            metrics.PROMISED_DEFERRAL,
            "Share deferred of the samples that the policy was chosen on.",
            {name: share for name, share in promised.items() if share is not None},
        )
        yield gauge(
            metrics.PRESENT_DEFERRAL, "Share deferred since the start.", self._deferred(counted)
        )
        info = GaugeMetricFamily(
            metrics.POLICY, "The policy.", labels=["fingerprint", "score", "stages"]
        )
        info.add_metric([policy.fingerprint, policy.score, ",".join(names)], 1)
        yield info

    def _deferred(self, counted: Iterable[Metric]) -> dict[str, float]:
        found = {
            (sample.labels["stage"], sample.labels["outcome"]): sample.value
            for family in counted
            for sample in family.samples
            if sample.name == metrics.SAMPLES
        }
        shares = {}
        for name in self._names[:-1]:
            gone, here = (found.get((name, one), 0.0) for one in ("deferred", "answered"))
            if gone + here:
                shares[name] = gone / (gone + here)
        return shares
