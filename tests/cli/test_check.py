"""`check`: the promise of a policy, tested on new data."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from lit_cascade import Record, Stage
from lit_cascade.cli import main
from lit_cascade.core.contract import replay
from lit_cascade.core.policy import Policy
from lit_cascade.data import DigitsData
from lit_cascade.models import ConvNet, Perceptron
from tests.cli.test_select import json_in, made, policy_in, saved, select

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


def check(paths, *words, out="k"):
    return main(
        ["check", "--policy", "o/policy.yaml", "--records", *paths, "--out", out, *map(str, words)]
    )


def test_a_policy_passes_on_the_same_kind_of_data_and_not_on_another(pair, tmp_path, capsys):
    assert select(pair, "--max_accuracy_drop", 0.02, "--confidence", 0.99) == 0
    for folder, records in (
        ("same", made(20_000, 5, first=50_000)),
        ("noisy", made(20_000, 6, first=90_000, noise=2.5)),
    ):
        (tmp_path / folder).mkdir()
        saved(records, folder)
    capsys.readouterr()
    assert check(["same/small.safetensors", "same/large.safetensors"]) == 0
    assert "The promise accuracy drop <= 2 points is kept, with 99 %" in capsys.readouterr().out
    assert json_in("k/check.json")["outcome"] == "kept"
    assert check(["noisy/small.safetensors", "noisy/large.safetensors"], out="n") == 1
    said = capsys.readouterr()
    assert "other data than those it was chosen on" in said.err
    assert "Traceback" not in said.err
    assert json_in("n/check.json")["drifted"]


def test_a_check_needs_no_labels(pair, tmp_path, capsys):
    assert select(pair, "--max_accuracy_drop", 0.02) == 0
    for folder, noise, verdict in (("same", 1.0, 0), ("noisy", 2.5, 1)):
        (tmp_path / folder).mkdir()
        blind = saved(made(3000, 7, first=70_000, labelled=False, noise=noise), folder)
        assert check(blind, out=f"k{folder}") == verdict
        found = json_in(f"k{folder}/check.json")
        assert found["outcome"] == "unknown"
        assert found["value"] is None


def test_a_check_takes_only_what_was_promised(pair, others, capsys):
    assert select(pair, "--max_accuracy_drop", 0.02) == 0
    assert check(pair) == 1
    assert "thresholds were fitted on" in capsys.readouterr().err
    assert check(others[::-1]) == 1
    assert (
        "expected those of small, large, the policy's stages; got large, small"
        in capsys.readouterr().err
    )
    policy = {"policy": policy_in()}
    policy["policy"]["thresholds"]["small"] = 0.5
    Path("o/policy.yaml").write_text(yaml.safe_dump(policy))
    assert check(others) == 1
    assert "the promise was made for other thresholds" in capsys.readouterr().err
    Path("o/policy.yaml").write_text(yaml.safe_dump({"policy": {"thresholds": {"small": 0.5}}}))
    assert check(others) == 1
    assert "promises nothing" in capsys.readouterr().err
    Path("o/policy.yaml").write_text(yaml.safe_dump({"trainer": {}}))
    assert check(others) == 2
    assert "holds no policy" in capsys.readouterr().err


def test_noisy_digits_trip_the_check(tmp_path, capsys):
    """The bundled pair, on its own validation images and on the same with noise."""
    data = DigitsData(batch_size=500)
    data.setup()
    small = Stage(lambda: Perceptron(64, [128], scale=16), "digits/small.safetensors")
    large = Stage(lambda: ConvNet(8, [32, 32, 64], [1, 1, 2], scale=16), "digits/large.safetensors")
    nets = {"small": small.build("small"), "large": large.build("large")}

    def record(folder, loader, first, noise=0.0):
        x, y = next(iter(loader))
        x = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        (tmp_path / folder).mkdir()
        with torch.inference_mode():
            return saved(
                [
                    Record.from_arrays(
                        name, net(x), y, ids=torch.arange(first, first + len(y)), flops=flops,
                        data={"name": "digits", "source": "digits", "split": folder},
                    )
                    for (name, net), flops in zip(nets.items(), (1.9e4, 1.8e6), strict=True)
                ],
                folder,
            )  # fmt: skip

    calibration = record("calibration", data.calibration_dataloader(), 0)
    assert select(calibration, "--max_accuracy_drop", 0.02) == 0
    assert check(record("validation", data.val_dataloader(), 1000), out="same") == 0
    assert check(record("noisy", data.val_dataloader(), 2000, noise=6.0), out="noisy") == 1
    assert "other data" in capsys.readouterr().err


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
        (("--cost", "usd=seconds.json"), "got 'usd'. Give latency_s=FILE"),
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
