"""Counts read back from what a served cascade exposes, and the dashboard that draws them."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

import lit_cascade.serve
from lit_cascade.analysis.check import _counts
from lit_cascade.core import Policy
from lit_cascade.errors import UsageError
from lit_cascade.serve import Scrape, metrics, read_scrape
from lit_cascade.serve.prometheus import Metrics
from lit_cascade.serve.stage import Outcome

NAMES = ("small", "large")
EDGES = [1e-05, 0.1, 0.25, float(torch.tensor(0.7)), 0.9, 1.0]
STATE = {"waiting": [0, 0], "restarts": [0, 0], "costs": [{"flops": 2.0}, {"flops": 8.0}]}


@pytest.fixture
def scrape(counts):
    """What a server of 800 samples exposes, as it is read back, and the scores."""
    summary = {"n": 7, "deferred": 3, "edges": EDGES, "counts": [1] * 7}
    rule = Policy(0.5, names=NAMES, evidence={"scores": {"small": summary}})
    counted = Metrics(NAMES, rule)
    scores = torch.cat([torch.rand(794), torch.tensor(EDGES)])
    outcomes = [Outcome(score=float(one), deferred=bool(one < 0.5)) for one in scores]
    counted.batch("small", outcomes, [None] * len(outcomes), [0.0] * len(outcomes), 0.5)
    audits = [Outcome(score=1.0, agreed=k > 2) for k in range(10)]
    counted.batch("large", audits, ["small"] * 10, [0.0] * 10, 0.5)
    return read_scrape(counted.text(STATE).decode(), "it"), scores, rule


def test_counts_of_a_server_are_those_of_its_samples(scrape):
    found, scores, rule = scrape
    assert found.fingerprint == rule.fingerprint
    assert found.costs == {"flops": {"small": 2.0, "large": 8.0}}
    deferred = int((scores < 0.5).sum())
    assert found.samples(NAMES, "deferred") == [deferred, 0]
    assert found.samples(NAMES[:1], "answered") == [800 - deferred]
    assert found.audits(NAMES[:1]) == (10, 3)
    edges = torch.tensor(EDGES, dtype=torch.float64)
    below = _counts(scores, edges).cumsum(0)[:-1].tolist()
    assert found.below("small", EDGES) == below
    assert found.below("small", EDGES[2:4]) == below[2:4]
    assert found.below("small", [0.3]) is None  # another evidence
    assert found.below("large", EDGES) is None


def test_what_is_new_is_the_difference_and_all_after_a_restart(scrape):
    found, _, _ = scrape
    assert found.since(None) is found
    assert found.since({}) == found
    key = next(key for key in found.counters if key.startswith(metrics.AUDITS))
    half = {one: n - 1 for one, n in found.counters.items() if n}
    assert all(n in {0, 1} for n in found.since(half).counters.values())
    assert found.since(found.counters).samples(NAMES, "deferred") == [0, 0]
    more = found.counters | {key: found.counters[key] + 1}
    assert found.since(more) is found
    assert found.since(found.counters | {"a series that is gone": 1.0}) is found


def test_counts_that_cannot_be_are_refused():
    for value in ("NaN", "-1", "+Inf"):
        text = f'{metrics.SAMPLES}{{stage="small",outcome="answered"}} {value}\n'
        with pytest.raises(UsageError, match=f"it counts .* of {metrics.SAMPLES}"):
            read_scrape(text, "it")


def test_series_of_several_processes_are_added():
    policy = f'{metrics.POLICY}{{fingerprint="a"}} 1\n'
    row = f'{metrics.SAMPLES}{{stage="small",outcome="answered"}} 4\n'
    assert read_scrape(policy + row + row, "it").samples(["small"], "answered") == [8]
    assert Scrape({}, "a").samples(["small"], "answered") == [0]


BOARD = json.loads((Path(lit_cascade.serve.__file__).parent / "grafana.json").read_text())
EXPRESSIONS = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
KNOWN = {
    value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str)
}


def test_every_metric_of_the_dashboard_exists(counts):
    """By the names in `metrics`, and as a server really exposes them."""
    used = {name for text in EXPRESSIONS for name in re.findall(r"lit_cascade_\w+", text)}
    variables = [one["definition"] for one in BOARD["templating"]["list"] if "definition" in one]
    used |= {name for text in variables for name in re.findall(r"lit_cascade_\w+", text)}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} == KNOWN
    text = Metrics(NAMES, Policy(0.5, names=NAMES)).text(STATE).decode()
    exposed = set(re.findall(r"^(lit_cascade_\w+)", text, flags=re.MULTILINE))
    absent = {metrics.PROMISED_DEFERRAL, metrics.PRESENT_DEFERRAL, metrics.REQUESTS}
    assert used - absent <= exposed


def test_labels_of_the_dashboard_exist():
    matchers = {pair for text in EXPRESSIONS for pair in re.findall(r'(\w+)=~?"([^"]*)"', text)}
    outcomes = {"answered", "deferred", "agreed", "disagreed", "failed"}
    for label, value in matchers:
        assert label in {"stage", "outcome", "unit"}
        assert label != "outcome" or set(value.split("|")) <= outcomes
    groups = {name for text in EXPRESSIONS for part in re.findall(r"(?:by|on) \(([^)]*)\)", text)
              for name in part.split(", ")}  # fmt: skip
    assert groups <= {"stage", "outcome", "le", "code", "fingerprint", "score"}
    for text in EXPRESSIONS:
        assert text.count("(") == text.count(")")
        assert text.count("{") == text.count("}")


def test_the_dashboard_draws_what_was_asked_for():
    titles = " ".join(panel["title"] for panel in BOARD["panels"]).lower()
    for part in ("deferral rate", "samples per second by stage", "latency", "queue", "batch size",
                 "cost", "audits", "scores"):  # fmt: skip
        assert part in titles
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [tuple(panel["gridPos"].values()) for panel in BOARD["panels"]]
    assert len(set(places)) == len(places)
    sources = {panel["datasource"]["uid"] for panel in BOARD["panels"]}
    assert sources == {"${datasource}"}


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client.parser", None)
    with pytest.raises(UsageError, match=r"pip install 'lit-cascade\[serve\]'"):
        read_scrape("", "it")
