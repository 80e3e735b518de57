"""Results in a notebook: reprs of a few lines, DataFrames, HTML, axes."""

import csv
import io
import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from lit_cascade.analysis import (
    CalibrationPlan,
    calibrate,
    calibrate_record,
    compare_cascades,
    compare_scores,
    outcomes_of,
    replay,
    search,
    select,
)
from lit_cascade.analysis.check import check_promise, references
from lit_cascade.analysis.selection import select_thresholds
from lit_cascade.core import Policy, StageOutcomes, operating_points
from lit_cascade.core.guarantee import Promise
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.lit.execution import Evaluation, Execution
from lit_cascade.lit.measuring import Benchmark
from lit_cascade.lit.predicting import Predictions
from lit_cascade.live import Latency, Speed
from lit_cascade.records import Ids, Record, RecordSummary
from lit_cascade.report import curve_csv, frontier_csv, scores_csv
from lit_cascade.utilities.tabular import described, html_of, listed

N = 400
NAMES = ("<small>", "large")


@pytest.fixture(scope="module")
def records():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 5, (N,), generator=generator)
    truth = torch.nn.functional.one_hot(labels, 5).float()
    noise = torch.randn(2, N, 5, generator=generator)
    return [
        Record.from_arrays(name, strength * truth + noise[k], labels, flops=10.0 ** (4 + 2 * k))
        for k, (name, strength) in enumerate(zip(NAMES, (2.0, 4.0), strict=True))
    ]


@pytest.fixture(scope="module")
def outcomes(records):
    return outcomes_of(records, Policy(stages=2))


@pytest.fixture(scope="module")
def results(records, outcomes, tmp_path_factory):
    """One of every kind of result, by kind."""
    folder = tmp_path_factory.mktemp("records")
    for number, record in enumerate(records):
        record.save(folder / f"{number}.safetensors")
    searched = search([folder], repeats=2)
    curve = outcomes.curve()
    fit = calibrate_record(records[0])
    plan, scores = CalibrationPlan.of(N), compare_scores(records)
    selection = select_thresholds(outcomes, Promise("accuracy_drop", 0.1))
    reference = references(outcomes, [0.9], NAMES)
    promise = Promise("accuracy_drop", 0.1)
    stage = outcomes.route([0.9])
    ran = torch.arange(2) <= stage[:, None]
    speed = Speed((0.9,), (1.0, 0.3), stages=((1e-6,), (9e-6,)), cascade=(4e-6,))
    one = Latency(1e-4, 2e-4)
    benchmark = Benchmark(NAMES, N, 64, "a device", (speed,), (), (one, one), (one,), data={})
    return {
        "Record": records[0],
        "Ids": records[0].ids,
        "Samples": records[0].samples,
        "StageOutcomes": outcomes,
        "Curve": curve,
        "OperatingPoint": outcomes.at([0.9]),
        "OperatingPoints": operating_points(curve),
        "Front": searched.reported,
        "CascadeFront": searched.cascades,
        "Zoo": searched.zoo,
        "SearchResult": searched,
        "Selection": selection,
        "Candidates": selection.candidates,
        "Verdict": check_promise(outcomes, promise, [0.9], NAMES, reference),
        "StageCalibration": fit,
        "Calibration": calibrate(records),
        "Replay": replay(records, 0.9),
        "Policy": Policy((0.9, 0.8), temperatures=(1.0, 2.0, 3.0), names=("a" * 30, "b", "c")),
        "CalibrationPlan": plan,
        "ScoreFigures": scores.figures[0],
        "Benchmark": benchmark,
        "Evaluation": Evaluation(0.9, 1280.0, N, ("class",) * 1000, {}, {"f1_macro": 0.8}),
        "RecordSummary": RecordSummary.of(records[0], folder / "0.safetensors", 1000),
        "RecordedZoo": searched.protocol.chosen_on,
        "Predictions": Predictions(
            n=N, by_stage=(300, 100), left_out=(("a.jpg", "no image"),) * 500, resumed=3
        ),
        "CalibrationMetrics": fit.before,
        "ReliabilityDiagram": fit.before.diagram,
        "CalibrationEffect": compare_cascades(
            records, Policy(stages=2), {NAMES[0]: fit}, plan, "temperature"
        ),
        "ScoreComparison": scores,
        "Execution": Execution(
            samples=records[0].samples,
            data={},
            prediction=records[0].logits.argmax(dim=1),
            stage=stage,
            score=outcomes.scores[:, 0].float(),
            flops=outcomes.costs * ran,
            flops_alone=outcomes.costs[:, 1],
            executed=outcomes.costs * ran,
        ),
    }


KINDS = (
    "Benchmark", "Calibration", "CalibrationEffect", "CalibrationMetrics", "CalibrationPlan",
    "Candidates", "CascadeFront", "Curve", "Evaluation", "Execution", "Front", "Ids",
    "OperatingPoint", "OperatingPoints", "Policy", "Predictions", "Record", "RecordSummary",
    "RecordedZoo", "ReliabilityDiagram", "Replay", "Samples", "ScoreComparison", "ScoreFigures",
    "SearchResult", "Selection", "StageCalibration", "StageOutcomes", "Verdict", "Zoo",
)  # fmt: skip


def test_every_kind_of_result_is_looked_at(results):
    assert set(results) == set(KINDS)
    assert {type(result).__name__ for result in results.values()} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_repr_is_a_few_lines_without_tensors(kind, results):
    shown = repr(results[kind])
    assert shown.startswith(f"{kind}(")
    assert shown.endswith(")")
    lines = shown.splitlines()
    assert len(lines) <= 6
    assert max(map(len, lines)) <= 88, shown
    assert "tensor(" not in shown


def test_reprs_have_the_figures_that_count(results):
    curve, n = results["Curve"], f"{N} samples"
    low = f"{100 * float(curve.stage_accuracy[0]):.2f} %"
    high = f"{100 * float(curve.accuracy.max()):.2f} %"
    shown = " ".join(repr(curve).split())
    assert f"{NAMES[0]} → large, {n}, {len(curve)} thresholds" in shown
    assert f"accuracy {low} to {high}" in shown
    assert "FLOPs 10 k to 1.01 M" in shown
    shown = " ".join(repr(results["Record"]).split())
    assert shown == f"Record('<small>', {n}, 5 classes, accuracy {low}, 10 k FLOPs)"
    assert repr(results["Ids"]) == "Ids([0, 1, 2, 3, 4, ..., 399], n=400)"
    assert repr(Ids(["a", "b"])) == "Ids(['a', 'b'])"


# rows of the table of a result of each kind
ROWS = {
    "Record": len, "Execution": lambda result: len(result.samples.ids), "Curve": len, "Front": len,
    "CascadeFront": len, "SearchResult": lambda result: len(result.cascades), "Candidates": len,
    "Selection": lambda result: len(result.candidates), "OperatingPoints": len,
    "StageCalibration": lambda _: 2, "CalibrationEffect": lambda _: 2, "Verdict": lambda _: 1,
    "Benchmark": lambda _: 3, "Calibration": lambda _: 1, "Policy": lambda _: 3,
    "Replay": lambda result: len(result.ids),
    "ReliabilityDiagram": lambda result: len(result.counts),
    "ScoreComparison": lambda result: len(result.figures),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_results_are_dataframes_and_html(kind, results):
    result = results[kind]
    table = result.to_pandas()
    assert isinstance(table, pd.DataFrame)
    assert len(table) == ROWS[kind](result) > 0
    shown = result._repr_html_()
    assert shown.count("<tr") <= 15  # a dozen rows, the dots and the heading
    assert "<small>" not in shown
    assert shown.count("<table") == 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [("Curve", curve_csv), ("SearchResult", frontier_csv), ("ScoreComparison", scores_csv)],
)
def test_dataframes_have_the_columns_of_the_files(kind, text, results):
    header, *rows = csv.reader(io.StringIO(text(results[kind])))
    table = results[kind].to_pandas()
    assert list(table) == header
    assert len(table) == len(rows)
    for name, column in zip(header, zip(*rows, strict=True), strict=True):
        if name == "stages":
            assert [tuple(cell.split(";")) for cell in column] == list(table[name])
        elif name == "thresholds":
            read = [tuple(map(float, filter(None, cell.split(";")))) for cell in column]
            assert read == list(table[name])
        elif name != "score":
            read = [float(cell or "nan") for cell in column]
            assert read == pytest.approx(list(table[name]), rel=0, abs=0, nan_ok=True)


def test_a_record_is_a_table_of_its_samples(records):
    table = records[0].to_pandas()
    assert list(table) == ["id", "label", "prediction", "correct", "score", "flops"]
    logits = records[0].logits
    assert table["prediction"].tolist() == logits.argmax(dim=1).tolist()
    assert (table["correct"] == (table["label"] == table["prediction"])).all()
    assert table["score"].tolist() == pytest.approx(logits.softmax(dim=1).amax(dim=1).tolist())
    scored = Record.from_arrays("api", score=[0.9, 0.1], correct=[1, 0], costs={"usd": 0.002})
    assert list(scored.to_pandas()) == ["id", "correct", "score", "usd"]
    assert "accuracy 50.00 %" in repr(scored)
    several = Record.from_arrays("net", [[1.0, 0.0, 0.0]], [[0, 2]], flops=1)
    assert several.to_pandas()["label"].tolist() == [(0, 2)]
    blind = Record.from_arrays("net", [[1.0, 0.0]], flops=1)
    assert list(blind.to_pandas()) == ["id", "prediction", "score", "flops"]
    assert "no labels" in repr(blind)


@pytest.fixture
def axes():
    yield plt.subplots()[1]
    plt.close("all")


PLOTS = (
    "CalibrationEffect", "CascadeFront", "Curve", "Front", "ReliabilityDiagram", "ScoreComparison",
    "SearchResult", "Selection", "StageCalibration",
)  # fmt: skip


def test_a_calibration_is_drawn_in_panels(results):
    stage, cascade = results["Calibration"].plot()
    assert stage.get_title() == "reliability of '<small>'"
    assert cascade.get_title().startswith("the cascade: ")
    assert stage.figure is cascade.figure
    plt.close("all")


@pytest.mark.parametrize("kind", PLOTS)
def test_results_draw_themselves(kind, results, axes):
    own = results[kind].plot()
    assert own is not axes  # axes of a figure of its own
    assert results[kind].plot(axes) is axes
    assert len(own.lines) == len(axes.lines) > 0
    for drawn, again in zip(own.lines, axes.lines, strict=True):
        assert drawn.get_xydata().tolist() == again.get_xydata().tolist()
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_a_curve_is_drawn_as_it_is(results, axes):
    curve = results["Curve"]
    curve.plot(axes, label="mine", color="red")
    line, *dots = axes.lines
    assert line.get_xydata().tolist() == [
        [cost, 100 * accuracy]
        for cost, accuracy in zip(curve.cost.tolist(), curve.accuracy.tolist(), strict=True)
    ]
    assert (line.get_label(), line.get_color(), line.get_drawstyle()) == (
        "mine",
        "red",
        "steps-post",
    )
    assert [dot.get_xydata()[0].tolist() for dot in dots] == [
        [cost, 100 * accuracy]
        for cost, accuracy in zip(
            curve.stage_cost.tolist(), curve.stage_accuracy.tolist(), strict=True
        )
    ]
    assert [text.get_text() for text in axes.texts] == list(NAMES)
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "FLOPs per sample (one multiply-add = 2 FLOPs)"


@pytest.mark.parametrize("free", [False, True])
def test_money_is_drawn_per_million_calls_as_tables_tell_it(free, axes):
    first = 0.0 if free else 1e-5
    costs = torch.tensor([[first, 1e-3]]).expand(4, 2)
    right = torch.tensor([[True, True], [False, True]]).repeat(2, 1)
    outcomes = StageOutcomes(torch.rand(4, 1), right, costs, unit="usd")
    outcomes.curve().plot(axes)
    assert axes.get_xlabel() == "dollars per million calls"
    axes.figure.canvas.draw()
    assert axes.lines[0].get_xdata()[0] == pytest.approx(first)
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    shown = {label.get_text(): tick for tick, label in ticks}
    assert shown["1,000"] == pytest.approx(1e-3)
    assert axes.get_xscale() == ("linear" if free else "log")


def test_a_fit_that_changes_nothing_is_drawn_once(records, axes):
    calibrate_record(records[0], "none").plot(axes)
    assert [text.get_text()[:6] for text in axes.get_legend().get_texts()] == ["before"]


def test_long_names_are_cut_and_html_is_escaped():
    assert listed(["x" * 100]) == f"{'x' * 18}...{'x' * 18}"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c, ..., e"
    lines = described("Thing", *["some words"] * 20).splitlines()
    assert all(len(line) <= 88 for line in lines)
    assert lines[1].startswith("      some words,")
    table = pd.DataFrame(
        {"<b>": ["<i>"], "cost": [1.2e6], "pair": [("<u>", 0.5)], "none": [math.nan]}
    )
    shown = html_of("<script>", table)
    assert not any(tag in shown for tag in ("<script>", "<b>", "<i>", "<u>"))
    assert ">1.2 M<" in shown
    assert "&lt;u&gt;, 0.5" in shown


def test_a_curve_of_unnamed_stages_counts_them(outcomes):
    curve = type(outcomes)(outcomes.scores, outcomes.correct, outcomes.costs).curve()
    assert "stage0 → stage1" in repr(curve)
    assert list(curve.columns())[-2:] == ["cost", "cost_ratio"]


def test_a_row_of_the_front_is_a_policy(results):
    search = results["SearchResult"]
    table = search.to_pandas()
    for row in (1, len(table) // 2):
        policy = search.policy(row)
        assert policy.names == table["stages"][row]
        assert policy.thresholds == table["thresholds"][row]
        assert policy.evidence["thresholds"]["ids"] == "0..399"
        point = replay(results["Calibration"].records, policy, allow_overlap=True).point
        assert (point.accuracy, point.cost) == (
            table["accuracy"][row], pytest.approx(table["flops"][row])
        )  # fmt: skip
    with pytest.raises(CascadeError, match="fitted on"):
        replay(results["Calibration"].records, search.policy(1))
    with pytest.raises(UsageError, match="row: 0 is the model '<small>' alone"):
        search.policy(0)
    with pytest.raises(UsageError, match=f"from 0 to {len(table) - 1}, got {len(table)}"):
        search.policy(len(table))


def test_a_selection_shows_the_samples_that_were_held_out(records):
    selection = select(records, max_accuracy_drop=0.2, holdout=0.25)
    held = selection.held_out
    shown = " ".join(repr(selection).split())
    assert f"100 samples held out: accuracy {100 * held.point.accuracy:.2f} %" in shown
    assert f"the promise: {held.verdict.outcome})" in shown
    assert max(map(len, repr(selection).splitlines())) <= 88
    assert repr(held).startswith("HeldOutPolicy(100 samples, threshold ")
    assert len(repr(held).splitlines()) <= 3
    assert "policy, on samples held out" in selection._repr_html_()
