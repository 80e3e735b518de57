import json

import pytest
import torch

from lit_cascade.errors import UsageError
from lit_cascade.records.costs import read_costs, with_costs
from lit_cascade.records.folder import RecordedZoo
from lit_cascade.records.record import Record


def record(name, flops=1.0):
    return Record.from_arrays(name, [[1.0, 0.0], [0.0, 2.0]], [0, 1], flops=flops)


def cost_file(tmp_path, content, name="benchmark.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


COSTS = {"small": {"latency_s": 0.25, "usd": 1}, "large": {"latency_s": 4}}


def test_a_unit_alone_has_no_file():
    assert read_costs("flops") == ("flops", {})


@pytest.mark.parametrize("content", [COSTS, {"device": "cpu", "costs": COSTS}])
def test_costs_of_models_come_from_files(tmp_path, content):
    path = cost_file(tmp_path, content)
    other = cost_file(tmp_path, "{huge: {latency_s: 9.5}}", "own.yaml")
    unit, costs = read_costs(f"latency_s={path},{other}")
    assert (unit, costs) == ("latency_s", {"small": 0.25, "large": 4.0, "huge": 9.5})
    small, large = with_costs([record("small"), record("large")], unit, costs)
    assert small.cost("latency_s").tolist() == [0.25, 0.25]
    assert large.cost("latency_s").tolist() == [4.0, 4.0]
    assert large.cost("flops").tolist() == [1.0, 1.0]


def test_costs_of_models_come_from_a_table(tmp_path):
    path = cost_file(tmp_path, "model,flops,usd,source\nsmall,2e9,,timm\nlarge,8,0.5,x\n", "a.csv")
    assert read_costs(f"flops={path}") == ("flops", {"small": 2e9, "large": 8.0})
    assert read_costs(f"usd={path}") == ("usd", {"large": 0.5})


def test_a_search_goes_by_measured_costs(tmp_path):
    paths = []
    for name, flops in (("small", 9.0), ("large", 1.0)):  # by FLOPs the order would be another
        paths.append(tmp_path / f"{name}.safetensors")
        record(name, flops).save(paths[-1])
    zoo = RecordedZoo(paths, "latency_s", {"small": 0.25, "large": 4.0})
    assert zoo.names == ("small", "large")
    assert zoo.zoo().costs.flatten().tolist() == [0.25, 4.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", r"names no costs; expected the benchmark.json of a benchmark"),
        ("{small: 3}", r"names no costs"),
        ("{small: {usd: 1}}", r"has no costs in 'latency_s'; it has usd"),
        ("{small: {latency_s: -1}}", r"of 'small' must be a number of at least 0, got -1"),
        ("{small: {latency_s: .nan}}", r"must be a number of at least 0, got nan"),
        ("{small: {latency_s: true}}", r"must be a number of at least 0, got True"),
        ("{small: [", r"cannot read"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    with pytest.raises(UsageError, match=message):
        read_costs(f"latency_s={cost_file(tmp_path, content)}")


def test_a_missing_file_and_an_unknown_model(tmp_path):
    with pytest.raises(UsageError, match=r"--cost: cannot read .*nothing.json.*No such file"):
        read_costs("latency_s=nothing.json")
    with pytest.raises(UsageError, match=r"the cost of large in usd is not given; given are small"):
        with_costs([record("small"), record("large")], "usd", {"small": 1.0})
    same = [record("small")]
    assert with_costs(same, "flops", {}) == same
    assert torch.equal(same[0].cost(), torch.ones(2, dtype=torch.float64))
