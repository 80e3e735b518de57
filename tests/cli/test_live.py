"""`predict` and `benchmark` as a user runs them."""

import csv
import json

import pytest

from lit_cascade.lit.predicting import PARTS
from tests.cli.runs import done, killed_once, together, within

PAIR = ("--config", "digits_pair.yaml", "--trainer.accelerator", "cpu")


def test_predict_writes_a_row_per_sample(tmp_path):
    run = done(within("predict", *PAIR, "--format", "csv", "--out", "out", cwd=tmp_path))
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "class", "probability", "stage", "score", "error"]
    told = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert len(rows) == told["n"] == 450
    assert {row["stage"] for row in rows} == {"small", "large"}
    for name, count in told["answered_by"].items():
        assert count == sum(row["stage"] == name for row in rows)
        assert name in run.stdout
    tested = done(within("test", *PAIR, "--out", "tested", cwd=tmp_path))
    assert tested.stdout
    outcome = json.loads((tmp_path / "tested" / "test.json").read_text())
    assert outcome["deferral_rate"] == pytest.approx(told["answered_by"]["large"] / 450)
    again = within("predict", *PAIR, "--format", "csv", "--out", "out", cwd=tmp_path)
    assert again.returncode == 2
    assert "already holds predictions.csv" in again.stderr
    done(within("predict", *PAIR, "--format", "csv", "--out", "out", "--overwrite", cwd=tmp_path))


def test_predict_is_killed_and_goes_on(tmp_path):
    """At whatever moment: what is finished is kept, and the whole is as if nothing had happened."""
    words = ["predict", *PAIR, "--data.init_args.batch_size", "2", "--gather", "2"]
    done(within(*words, "--out", "whole", cwd=tmp_path))
    parts = tmp_path / "killed" / PARTS

    def there():
        return len(list(parts.glob("*.parquet"))) >= 5

    killed_once(there, *words, "--out", "killed", cwd=tmp_path)
    kept = len(list(parts.glob("*.parquet")))
    assert 5 <= kept < 113
    assert not (tmp_path / "killed" / "predictions.parquet").exists()
    run = done(within(*words, "--out", "killed", cwd=tmp_path))
    assert f"An earlier run had given {4 * kept:,} of the 450 answers." in run.stdout
    one, two = (tmp_path / out / "predictions.parquet" for out in ("whole", "killed"))
    assert one.read_bytes() == two.read_bytes()
    assert not parts.exists()


def test_several_processes_answer_and_choose_as_one(tmp_path):
    """For batches that do not divide, and a process whose windows are fewer."""
    words = (*PAIR, "--data.init_args.batch_size", "16")
    promise = ("--max_disagreement", "0.05", "--confidence", "0.9")
    commands = {
        "predict": (("--gather", "2"), ["predictions.parquet"]),
        "test": (("--gather", "2"), ["test.json"]),
        "select": (promise, ["policy.yaml"]),
    }
    for name, (own, _) in commands.items():
        done(within(name, *words, *own, "--out", f"{name}-1", cwd=tmp_path))
    runs = [(name, *words, *own, "--out", f"{name}-n") for name, (own, _) in commands.items()]
    done(together(3, *runs, cwd=tmp_path))
    for name, (_, files) in commands.items():
        for file in files:
            one, other = (tmp_path / f"{name}-{which}" / file for which in "1n")
            assert one.read_bytes() == other.read_bytes()


def test_benchmark_measures_and_its_costs_can_be_judged_by(tmp_path):
    words = ("--samples", "64", "--repeats", "2", "--singles", "3", "--at", "[0.5,0.99]")
    run = done(within("benchmark", *PAIR, *words, "--out", "b", cwd=tmp_path))
    found = json.loads((tmp_path / "b" / "benchmark.json").read_text())
    assert (tmp_path / "b" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert found["n"] == 64
    for kind in ("model_only", "end_to_end"):
        stages = found[kind]["stages"]
        assert [row["thresholds"] for row in found[kind]["cascade"]] == [[0.5], [0.99]]
        for row in found[kind]["cascade"]:
            assert len(row["repeats"]) == 2
            ideals = [
                small + row["deferral_rate"] * large
                for small, large in zip(stages["small"], stages["large"], strict=True)
            ]
            ratios = [i / r for i, r in zip(ideals, row["repeats"], strict=True)]
            assert row["of_ideal"]["median"] == pytest.approx(sum(ratios) / 2, rel=1e-6)
            assert row["of_ideal"]["least"] == pytest.approx(min(ratios), rel=1e-6)
        low, high = (row["deferral_rate"] for row in found[kind]["cascade"])
        assert low < high
    assert "of the ideal" in run.stdout
    assert set(found["one_sample"]["alone"]) == {"small", "large"}
    cost = "latency_s=b/benchmark.json"
    done(within("validate", *PAIR, "--cost", cost, "--out", "v", cwd=tmp_path))
    header = (tmp_path / "v" / "curve.csv").read_text().splitlines()[0]
    assert header == "threshold,deferral_rate,accuracy,latency_s,latency_s_ratio"
    last = (tmp_path / "v" / "curve.csv").read_text().splitlines()[-1].split(",")
    spent = sum(found["costs"][name]["latency_s"] for name in ("small", "large"))
    assert float(last[3]) == pytest.approx(spent)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--deferral_rates", "[1.5]", "--policy.thresholds", "null"),
            "deferral_rates: 1.5 is not a share",
        ),
        (("--samples", "0"), "samples: expected at least 1, got 0"),
        (("--threads", "0"), "threads: expected at least 1, got 0"),
        (("--gather", "0"), "gather: expected at least 1, got 0"),
    ],
)
def test_benchmark_says_what_is_wrong(tmp_path, words, message):
    run = within("benchmark", *PAIR, *words, "--out", "b", cwd=tmp_path)
    assert run.returncode == 2
    assert message in run.stderr
    assert not (tmp_path / "b").exists()
