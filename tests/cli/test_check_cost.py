"""A promise of cost, tested on new data at what the stages cost by a file."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from lit_cascade import Record
from lit_cascade.cli import main
from lit_cascade.core.contract import replay
from lit_cascade.core.policy import Policy
from tests.cli.test_select import check, json_in, made, policy_in, saved, select

SECONDS = {"small": {"latency_s": 0.001}, "large": {"latency_s": 0.01}}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "seconds.json").write_text(json.dumps(SECONDS))
    dear = SECONDS | {"large": {"latency_s": 0.05}}
    (tmp_path / "dear.json").write_text(json.dumps(dear))


@pytest.fixture
def pair():
    return saved(made(1200, 0), "a")


@pytest.fixture
def others():
    return saved(made(8000, 1, first=50_000), "b")


PRICES = ("--cost", "latency_s=seconds.json")


@pytest.mark.parametrize(
    ("target", "limit", "dear"), [("max_cost", 0.006, "broken"), ("max_cost_ratio", 0.6, "kept")]
)
def test_a_promised_price_is_tested_at_the_prices_given(pair, others, capsys, target, limit, dear):
    assert select(pair, f"--{target}", limit, *PRICES) == 0
    assert check(others, *PRICES) == 0
    found = json_in("k/check.json")
    assert found["outcome"] == "kept"
    assert found["cost"] == "latency_s"
    threshold = policy_in()["thresholds"]["small"]
    stage = replay([Record.load(path).logits for path in others], Policy((threshold,))).stage
    spent = sum(0.001 + 0.01 * int(deferred) for deferred in stage) / len(stage)
    share = 1.0 if target == "max_cost" else 0.01
    assert found["value"] == pytest.approx(spent / share, rel=1e-9)
    assert found["value"] < limit

    # five times as dear a large stage costs more, but is a smaller part of what it costs alone
    code = check(others, "--cost", "latency_s=dear.json", out="dear")
    now = json_in("dear/check.json")
    assert (now["outcome"], code) == (dear, int(dear == "broken"))
    spent = sum(0.001 + 0.05 * int(deferred) for deferred in stage) / len(stage)
    share = 1.0 if target == "max_cost" else 0.05
    assert now["value"] == pytest.approx(spent / share, rel=1e-9)


def test_the_policy_says_how_to_check_it(pair):
    assert select(pair, "--max_cost", 0.006, *PRICES) == 0
    head = Path("o/policy.yaml").read_text().splitlines()
    command = "lit-cascade check --policy policy.yaml --records SMALL LARGE"
    assert f"#   {command} {' '.join(PRICES)}" in head


def test_records_that_hold_the_unit_need_no_file(pair, others):
    for paths in (pair, others):
        for path in paths:
            record = Record.load(path)
            cost = {"latency_s": torch.full((len(record),), SECONDS[record.name]["latency_s"])}
            Record.from_arrays(
                record.name, record.logits, record.labels, ids=record.ids, costs=cost,
                data=record.data, model=record.model,
            ).save(path)  # fmt: skip
    assert select(pair, "--max_cost", 0.006, "--cost", "latency_s") == 0
    for out, words in (("k", ()), ("l", ("--cost", "latency_s"))):
        assert check(others, *words, out=out) == 0
        assert json_in(f"{out}/check.json")["outcome"] == "kept"


def test_another_unit_than_the_policys_is_refused(pair, others, tmp_path, capsys):
    assert select(pair, "--max_cost", 0.006, *PRICES) == 0
    for words, says in (
        ((), "chosen by its cost in latency_s, and the record 'small' has only flops"),
        (("--cost", "flops"), "chosen by its cost in latency_s; got 'flops'"),
        (("--cost", "usd=seconds.json"), "got 'usd'. Give --cost latency_s=FILE"),
        (("--cost", "latency_s=nothing.json"), "cannot read 'nothing.json'"),
    ):
        capsys.readouterr()
        assert check(others, *words) == 2
        said = capsys.readouterr()
        assert says in said.err
        assert said.out == ""
        assert not (tmp_path / "k").exists()
    (tmp_path / "half.json").write_text(json.dumps({"small": {"latency_s": 0.001}}))
    assert check(others, "--cost", "latency_s=half.json") == 2
    assert "the cost of large in latency_s is not given" in capsys.readouterr().err


def test_a_policy_chosen_by_flops_takes_no_seconds(pair, others, capsys):
    assert select(pair, "--max_cost_ratio", 0.6) == 0
    assert check(others, *PRICES) == 2
    assert "chosen by its cost in flops" in capsys.readouterr().err
    assert check(others, "--cost", "flops") == 0


def test_the_unit_may_stand_in_a_config(pair, others, tmp_path):
    assert select(pair, "--max_cost", 0.006, *PRICES) == 0
    (tmp_path / "check.yaml").write_text(yaml.safe_dump({"cost": "latency_s=seconds.json"}))
    words = ["--policy", "o/policy.yaml", "--records", *others, "--out", "k"]
    assert main(["check", "--config", "check.yaml", *words]) == 0
