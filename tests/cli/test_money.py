"""Costs in money on the command line: per million calls, and per month with what is promised."""

import json
import math
import re

import pytest
import torch

from lit_cascade import Policy, Record
from lit_cascade.records import priced
from tests.cli.runs import done, within

N = 4_000
PRICES = {"local": 0.00001, "service": 0.001}
CALLS = 2e6


def made(part):
    """Two services; of one part of the samples."""
    generator = torch.Generator().manual_seed(part)
    labels = torch.randint(4, (N,), generator=generator)
    records = []
    for k, (name, price) in enumerate(PRICES.items()):
        score = torch.rand(N, generator=generator)
        right = torch.rand(N, generator=generator) < (0.5 + 0.5 * score if k == 0 else 0.85)
        answer = torch.where(right, labels, (labels + 1) % 4)
        arrays = {"prediction": answer, "labels": labels, "score": score}
        ids = torch.arange(N) + part * N
        details = {"ids": ids, "classes": list("abcd"), "data": {"source": "services"}}
        records.append(Record.from_arrays(name, **arrays, costs={"usd": price}, **details))
    return records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("money")
    for part, place in enumerate(("old", "new")):
        (here / place).mkdir()
        for record in made(part):
            record.save(here / f"{place}/{record.name}.safetensors")
    (here / "labels.txt").write_text("\n".join(map(str, made(0)[0].labels.tolist())))
    return here


def records_in(place):
    return [f"{place}/{name}.safetensors" for name in PRICES]


def spent(records, threshold):
    """Mean price by a loop."""
    total = 0.0
    for score in records[0].score.tolist():
        total += PRICES["local"] + (0 if score >= threshold else PRICES["service"])
    return total / len(records[0])


def dollars_a_month(run):
    """What a command says that the cascade costs."""
    told = re.search(r"At 2,000,000 calls a month: 2,000 -> ([\d,]+) dollars, which", run.stdout)
    return float(told[1].replace(",", ""))


def test_validate_tells_costs_per_million_calls_and_the_saving_of_a_month(folder):
    words = ["validate", "--records", *records_in("old"), "--cost", "usd", "--out", "v"]
    run = done(within(*words, "--calls_per_month", "2e6", cwd=folder))
    summary = json.loads((folder / "v/summary.json").read_text())
    point = summary["operating_points"]["same_accuracy"]
    mean = spent(made(0), point["threshold"])
    assert point["usd"] == pytest.approx(mean)
    assert "dollars per million calls" in run.stdout
    assert f"dollars per million calls fall {0.001 / mean:.1f}x, from 1,000 to " in run.stdout
    assert dollars_a_month(run) == pytest.approx(CALLS * mean, abs=0.6)
    assert "Nothing is promised here" in run.stdout
    month = summary["per_month"]
    assert month["saved"] == pytest.approx(CALLS * (0.001 - mean))
    assert month["interval"][0] < month["saved"] < month["interval"][1]


def test_validate_takes_the_given_thresholds_for_the_month(folder):
    words = ["validate", "--records", *records_in("old"), "--cost", "usd", "--out", "v2", "--json"]
    words += ["--policy.thresholds.local", "0.25", "--calls_per_month", "100"]
    summary = json.loads(done(within(*words, cwd=folder)).stdout)
    assert summary["per_month"]["cascade"] == pytest.approx(100 * spent(made(0), 0.25))
    without = done(within(*words[:-2], "--overwrite", cwd=folder)).stdout
    assert "per_month" not in json.loads(without)


@pytest.mark.parametrize("holdout", ["0", "0.5"])
def test_select_puts_the_promise_beside_the_saving(folder, holdout):
    words = ["select", "--records", *records_in("old"), "--cost", "usd", "--max_accuracy_drop"]
    words += ["0.03", "--calls_per_month", "2e6", "--holdout", holdout, "--out", f"s{holdout}"]
    run = done(within(*words, cwd=folder))
    told = next(line for line in run.stdout.splitlines() if line.startswith("At 2,000,000 calls"))
    assert ("held out" if float(holdout) else "chosen on them") in told
    assert told.endswith(
        "Promised, with 95 % confidence, is: accuracy drop <= 3 points, and not the saving."
    )
    summary = json.loads((folder / f"s{holdout}/summary.json").read_text())
    chosen = summary["held_out"] or summary["chosen"]
    assert summary["per_month"]["cascade"] == pytest.approx(CALLS * chosen["usd"])
    assert re.search(r"x fewer dollars \(1,000 -> \d+ dollars per million calls\)", run.stdout)


def test_check_tells_the_saving_on_new_samples(folder):
    words = ["select", "--records", *records_in("old"), "--cost", "usd", "--max_accuracy_drop"]
    done(within(*words, "0.03", "--out", "p", cwd=folder))
    words = ["check", "--policy", "p/policy.yaml", "--records", *records_in("new")]
    run = done(within(*words, "--calls_per_month", "2e6", "--out", "c", cwd=folder))
    (threshold,) = Policy.load(folder / "p/policy.yaml").required_thresholds()
    mean = spent(made(1), threshold)
    assert dollars_a_month(run) == pytest.approx(CALLS * mean, abs=0.6)
    month = json.loads((folder / "c/check.json").read_text())["per_month"]
    assert month["cascade"] == pytest.approx(CALLS * mean)


def test_a_limit_in_money_is_promised_in_money(folder):
    words = ["select", "--records", *records_in("old"), "--cost", "usd", "--max_cost", "0.0005"]
    run = done(within(*words, "--calls_per_month", "1e6", "--out", "m", cwd=folder))
    assert run.stdout.startswith("dollars per million calls <= 500: local → service")
    assert run.stdout.count("is: dollars per million calls <= 500.\n") == 1


@pytest.mark.parametrize("command", ["validate", "select", "search"])
def test_calls_that_are_none_are_a_usage_error(folder, command):
    words = ["--records", *records_in("old"), "--cost", "usd", "--calls_per_month=-2"]
    words += ["--min_accuracy", "0.5"] if command == "select" else []
    run = within(command, *words, cwd=folder)
    assert run.returncode == 2
    assert "--calls_per_month: expected a number above 0, such as 2e6, got -2." in run.stderr


def test_search_tells_the_saving_of_a_month_and_that_of_other_samples(folder):
    words = ["search", "--records", "old", "--cost", "usd", "--repeats", "3", "--levels", "50"]
    run = done(within(*words, "--calls_per_month", "2e6", "--out", "z", cwd=folder))
    (cascade,) = [
        one
        for one in json.loads((folder / "z/summary.json").read_text())["cascades"]
        if len(one["stages"]) > 1 and one["held_out"]
    ]
    month, held_out = cascade["per_month"], cascade["held_out"]
    mean = spent(made(0), cascade["thresholds"]["local"])
    assert month["single"] == pytest.approx(CALLS * PRICES["service"])
    assert month["cascade"] == pytest.approx(CALLS * mean)
    assert month["saved"] == pytest.approx(CALLS * (PRICES["service"] - mean))
    low, high = month["held_out"]["interval_95"]
    assert low < month["held_out"]["saved"] == CALLS * held_out["saved"] < high
    assert "2,000,000 calls a month, in dollars" in run.stdout
    assert f"2,000 -> {CALLS * mean:,.0f}" in run.stdout
    assert f"{low:,.0f} to {high:,.0f}" in run.stdout
    without = done(within(*words, "--holdout", "0", "--json", "--out", "z0", cwd=folder))
    (found, *_) = json.loads(without.stdout)["cascades"]
    assert found["held_out"] is None
    assert "per_month" not in found


HUMAN = ["import", "--name", "human", "--cost", "usd=0.50", "--classes", "4"]


def test_a_person_is_a_stage_that_is_right_by_definition(folder):
    done(within(*HUMAN, "--correct", "1", "--labels", "labels.txt", "--out", "h", cwd=folder))
    human = Record.load(folder / "h/human.safetensors")
    old = made(0)
    assert human.prediction.equal(old[0].labels)
    assert bool(human.right.all())
    assert human.costs["usd"].unique().tolist() == [0.5]
    words = ["select", "--records", *records_in("asked"), "h/human.safetensors", "--cost", "usd"]
    (folder / "asked").mkdir()
    for record in old:  # as import makes them: without a source, and with positions as ids
        arrays = {name: getattr(record, name) for name in ("prediction", "labels", "score")}
        again = Record.from_arrays(record.name, **arrays, costs={"usd": 0.001}, classes="0123")
        again.save(folder / f"asked/{record.name}.safetensors")
    words += ["--min_accuracy", "0.9", "--policy.score", "agreement", "--out", "ask"]
    told = done(within(*words, cwd=folder)).stdout
    chosen = json.loads((folder / "ask/summary.json").read_text())["chosen"]
    assert chosen["accuracy"] >= 0.9
    asked, later = chosen["answered"]["human"], 1 - chosen["answered"]["local"]
    assert 0 < asked < 0.6
    assert chosen["usd"] == pytest.approx(0.001 + 0.001 * later + 0.5 * asked)
    assert sum(chosen["answered"].values()) == pytest.approx(1)
    assert f"human {100 * asked:.1f} %." in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--correct", "0.97", "--labels", "labels.txt"],
            "expected 1 .* give the person's answers",
        ),
        (["--correct", "1"], "--labels: needed with --correct 1"),
        (["--correct", "1", "--labels", "labels.txt", "--score", "labels.txt"], "--correct"),
    ],
)
def test_a_person_that_errs_needs_answers(folder, words, message):
    run = within(*HUMAN, *words, "--out", "x", cwd=folder)
    assert run.returncode == 2
    assert re.search(message, run.stderr)


def test_a_stage_may_cost_nothing_but_not_the_last(folder):
    (folder / "free.csv").write_text("model,usd\nlocal,0\nservice,0.001\n")
    words = ["--records", *records_in("old"), "--cost", "usd=free.csv"]
    run = done(within("select", *words, "--min_accuracy", "0.6", "--out", "f1", cwd=folder))
    assert "no dollars at all" in run.stdout
    assert "infinitely less" in run.stdout
    run = done(within("validate", *words, "--out", "f2", cwd=folder))
    assert re.search(r"local +7\d\.\d+ % +0 ", run.stdout)
    run = done(within("search", *words, "--repeats", "2", "--out", "f3", cwd=folder))
    assert "inf" not in run.stdout
    (folder / "free.csv").write_text("model,usd\nlocal,0\nservice,0\n")
    for command in ("validate", "select"):
        target = ["--min_accuracy", "0.6"] if command == "select" else []
        run = within(command, *words, *target, "--out", "f4", cwd=folder)
        assert run.returncode == 1
        assert "the last stage costs nothing" in run.stderr


def test_units_that_differ_are_one_message_with_what_would_work():
    small, large = made(0)
    other = Record.from_arrays("net", prediction=[0], flops=3)
    with pytest.raises(
        Exception, match=r"'local' has no cost 'flops'; it has usd, and all have us"
    ):
        priced([small, large], "flops")
    hint = r"'net' has no cost 'usd'; it has flops, and no unit is known of all: give --cost usd=FI"
    with pytest.raises(Exception, match=hint):
        priced([small, other], "usd")


def test_costs_below_a_cent_are_told_in_full():
    text = repr(made(0)[0])
    assert "10 dollars per million calls" in text
    assert math.isclose(made(0)[0].costs["usd"][0], 0.00001)
