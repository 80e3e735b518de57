"""What is exposed to Prometheus: the counts of all processes, in the bins of the evidence."""

import os

import pytest
import torch

pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from prometheus_client.parser import text_string_to_metric_families

from lit_cascade import Policy
from lit_cascade.analysis.check import _counts
from lit_cascade.serve import metrics
from lit_cascade.serve.prometheus import Metrics
from lit_cascade.serve.stage import Outcome

STATE = {"waiting": [3, 0], "restarts": [0, 1], "costs": [{"flops": 2.0}, {"flops": 8.0, "usd": 1}]}
EDGES = [0.1, 0.25, 0.5, float(torch.tensor(0.7)), 0.9]


def policy(**evidence):
    return Policy(0.5, names=("small", "large"), evidence=evidence)


def read(text):
    """Value of each series, by name and values of its labels."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def observe(counted, scores, stage="small"):
    outcomes = [Outcome(score=float(one), deferred=bool(one < 0.5)) for one in scores]
    counted.batch(stage, outcomes, [None] * len(outcomes), [0.25] * len(outcomes), 0.5)


def test_counts_of_scores_are_those_of_the_evidence_also_on_its_edges(counts):
    """Prometheus counts up to a bound, the evidence below an edge."""
    rule = policy(scores={"small": {"n": 9, "deferred": 3, "edges": EDGES, "counts": [1] * 6}})
    counted = Metrics(rule.names, rule)
    on_edges = torch.tensor(EDGES, dtype=torch.float64).float()
    scores = torch.cat([torch.rand(500), on_edges, on_edges.nextafter(torch.tensor(0.0))])
    observe(counted, scores)
    found = read(counted.text(STATE))
    bounds = [*metrics.score_buckets(rule.evidence, "small"), float("inf")]
    upto = [value for (name, *_), value in found.items() if name == "lit_cascade_score_bucket"]
    assert len(upto) == len(bounds)
    bins = torch.tensor(upto).diff(prepend=torch.zeros(1)).tolist()
    assert bins == _counts(scores, torch.tensor(EDGES, dtype=torch.float64)).tolist()


def test_without_evidence_the_buckets_divide_the_range_of_the_score(counts):
    assert len(metrics.score_buckets(None, "small")) == 19
    assert metrics.score_buckets({}, "small", -1.0, 1.0)[9] == pytest.approx(0.0, abs=1e-9)
    assert metrics.score_buckets({}, "small", float("-inf"), 0.0) == ()


def test_what_became_of_samples_is_counted_by_stage(counts):
    rule = policy(scores={"small": {"n": 8, "deferred": 2, "edges": [0.5], "counts": [2, 6]}})
    counted = Metrics(rule.names, rule)
    observe(counted, [0.75, 0.5, 0.25, 0.875])
    audits = [Outcome(score=1.0, agreed=True), Outcome(score=1.0, agreed=False), Outcome(score=0.5)]
    counted.batch("large", audits, ["small", "small", None], [0, 0, 1.5], 2.0)
    counted.batch("small", [Outcome({"error": ""}, 422)], [None], [0.0], 0.5)
    for code in (200, 200, 422):
        counted.request(code)
    counted.answer("small", 0.125)
    found = read(counted.text(STATE))
    assert found == found | {
        (metrics.SAMPLES, "answered", "small"): 3, (metrics.SAMPLES, "deferred", "small"): 1,
        (metrics.SAMPLES, "failed", "small"): 1, (metrics.SAMPLES, "answered", "large"): 1,
        (metrics.AUDITS, "agreed", "small"): 1, (metrics.AUDITS, "disagreed", "small"): 1,
        (f"{metrics.BATCH_SIZE}_sum", "large"): 3, (f"{metrics.BATCH_SIZE}_count", "small"): 2,
        (f"{metrics.STAGE_SECONDS}_sum", "small"): 1.0,
        (f"{metrics.QUEUE_SECONDS}_sum", "large"): 1.5,
        (f"{metrics.SCORE}_count", "small"): 4,  # not those that failed, nor audits
        (metrics.REQUESTS, "200"): 2, (metrics.REQUESTS, "422"): 1,
        (f"{metrics.REQUEST_SECONDS}_sum", "small"): 0.125,
        (metrics.WAITING, "small"): 3, (metrics.RESTARTS, "large"): 1,
        (metrics.COST, "flops", "large"): 8, (metrics.COST, "large", "usd"): 1,
        (metrics.THRESHOLD, "small"): 0.5, (metrics.PROMISED_DEFERRAL, "small"): 0.25,
        (metrics.PRESENT_DEFERRAL, "small"): 0.25,
        (metrics.POLICY, rule.fingerprint, "max_softmax", "small,large"): 1,
    }  # fmt: skip
    assert not any(name.startswith("lit_cascade_score") and "large" in labels
                   for name, *labels in found)  # fmt: skip


def test_counts_of_several_processes_are_added_and_outlive_them(counts):
    rule = policy()
    counted = Metrics(rule.names, rule)
    observe(counted, [0.75])
    pid = os.fork()
    if not pid:
        observe(counted, [0.75, 0.75])
        os._exit(0)
    os.waitpid(pid, 0)
    assert read(counted.text(STATE))[metrics.SAMPLES, "answered", "small"] == 3


def test_scores_that_are_no_numbers_are_not_counted(counts):
    counted = Metrics(policy().names, policy())
    observe(counted, [float("nan"), 0.75])
    found = read(counted.text(STATE))
    assert found[f"{metrics.SCORE}_count", "small"] == 1
    assert found[f"{metrics.SCORE}_sum", "small"] == 0.75
