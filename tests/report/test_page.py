"""The page that can be sent: its sentences, its numbers, its size, and names that are markup."""

import bisect
import json
import math
import re
from dataclasses import replace
from importlib import util

import numpy as np
import pytest

pytest.importorskip("altair", reason="needs the extra report")
pytest.importorskip("vl_convert", reason="needs the extra report")

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records import Record
from lit_cascade.report import html_report
from lit_cascade.report.page import page as page_module
from lit_cascade.report.page.page import LARGEST
from lit_cascade.report.page.sweep import Sweep
from tests.cli.runs import done, within
from tests.report.pages import DATA, LARGE, SMALL, Page, records_in, rows_of

KINDS = ["select", "check", "validate", "search", "compare-scores", "test", "benchmark"]


@pytest.fixture(scope="module")
def whole(results):
    """The page of all results."""
    return html_report([results / name for name in KINDS], "lit-cascade report <b>")


def summary(folder, name, file="summary.json"):
    return json.loads((folder / name / file).read_text(encoding="utf-8"))


def test_names_are_text_and_never_markup(whole):
    page = Page(whole)
    assert len(page.scripts[False]) == 2
    assert len(page.scripts[True]) == 1
    assert "img" not in page.tags
    assert page.tags.count("html") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name in (SMALL, LARGE, DATA, "lit-cascade report <b>"):
        assert name in page.text
    shown = json.dumps(page.data)
    assert all(json.dumps(name)[1:-1] in shown for name in (SMALL, LARGE))


def test_nothing_outside_is_asked_for(whole):
    page = Page(whole)
    policy = next(value for key, value in page.attributes if key == "content" and "src" in value)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    addresses = [value for key, value in page.attributes if key in {"src", "href"}]
    assert addresses == ["data:,"]


def test_the_page_is_small(whole):
    assert len(whole.encode()) < LARGEST


def test_a_selection_says_what_is_proposed_what_it_saves_and_how_sure_that_is(results):
    found = summary(results, "select")
    text = Page(html_report([results / "select"])).text
    chosen, (_, large) = found["chosen"], found["stages"]
    assert (
        f"{SMALL} answers when its confidence is at least {chosen['thresholds'][SMALL]:.6g}, which "
        f"is {100 * chosen['answered'][SMALL]:.1f} % of inputs; {LARGE} answers the others." in text
    )
    assert (
        f"{1 / chosen['flops_ratio']:.1f}x fewer FLOPs than {LARGE} alone: "
        f"{chosen['flops']:.3g} instead of 1 k FLOPs per input. The accuracy is "
        f"{100 * chosen['accuracy']:.2f} % against {100 * large['accuracy']:.2f} %." in text
    )
    assert (
        "With 95 % confidence, on new inputs of the same kind the accuracy is at most 3 points "
        f"below that of {LARGE}. It was chosen on 600 samples. It was not measured on others yet"
        in text
    )


def test_a_check_of_the_policy_is_part_of_how_sure_it_is(results):
    found = summary(results, "check", "check.json")
    text = Page(html_report([results / "check", results / "select"])).text
    verdict = {"kept": "the promise is kept there", "open": "they neither confirm nor refute"}
    assert f"Measured on 600 other samples: {verdict[found['outcome']]}" in text
    assert f"(observed {abs(100 * found['value']):.2f} points " in text
    assert "not measured" not in text
    (results / "other").mkdir()
    for stage in found["stages"]:
        stage["reference_rate"] += 0.1  # another policy
    (results / "other/check.json").write_text(json.dumps(found))
    assert "not measured" in Page(html_report([results / "other", results / "select"])).text


def test_what_is_held_out_is_told(results):
    words = ("--records", "calibration-0.safetensors", "calibration-1.safetensors")
    words += ("--min_accuracy", "0.8", "--holdout", "0.4", "--out", "held")
    done(within("select", *words, cwd=results))
    page = Page(html_report([results / "held"]))
    assert "the accuracy is at least 80.00 %" in page.text
    assert "Measured on 240 other samples" in page.text
    assert "On 240 samples held out" in page.text


def test_without_a_promise_the_page_says_so(results):
    text = Page(html_report([results / "validate"])).text
    assert "Nothing is promised. The threshold was chosen on the same 600 samples" in text
    month = summary(results, "validate")["per_month"]
    saved, low, high = (f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in (
        month["saved"], *month["interval"]))  # fmt: skip
    assert f"At 2,000,000 calls a month that is {saved} dollars (95 % interval {low} to" in text
    assert high in text
    words = ("--records", "calibration-0.safetensors", "calibration-1.safetensors")
    words += ("--max_accuracy_drop", "0.03", "--confidence", "none", "--out", "plain")
    done(within("select", *words, cwd=results))
    text = Page(html_report([results / "plain"])).text
    assert "Nothing is promised: on the 600 samples it was chosen on the accuracy is" in text


def test_the_threshold_of_select_is_that_of_validate_on_the_same_page(results):
    words = ("--records", "test-0.safetensors", "test-1.safetensors", "--out", "again")
    done(within("validate", *words, cwd=results))
    page = Page(html_report([results / "again", results / "select"]))
    threshold = summary(results, "select")["chosen"]["thresholds"][SMALL]
    slider = page.data[1]["slider"]
    curve = rows_of(results / "again/curve.csv")
    row = next(row for row in curve if float(row["threshold"]) >= threshold)
    assert slider["start"][f"deferred to {LARGE}"] == f"{100 * float(row['deferral_rate']):.1f} %"
    assert "The threshold was chosen above" in page.text


@pytest.mark.parametrize(
    ("name", "file"), [("validate", "curve.csv"), ("select", "candidates.csv")]
)
def test_every_number_beside_the_slider_is_that_of_its_row(results, name, file):
    page = Page(html_report([results / name]))
    slider = page.data[0]["slider"]
    rows = sorted(rows_of(results / name / file), key=lambda row: float(row["threshold"]))
    assert slider["rows"] == slider["of"] == len(rows)  # so few need no thinning
    scores = [float(row["threshold"]) for row in rows]
    for i, row in enumerate(rows):
        shown = {heading: texts[i] for heading, texts in slider["tiles"].items()}
        assert bisect.bisect_left(scores, float(shown["threshold"])) == i  # the same are deferred
        assert shown[f"deferred to {LARGE}"] == f"{100 * float(row['deferral_rate']):.1f} %"
        assert shown["accuracy"] == f"{100 * float(row['accuracy']):.2f} %"
        if name == "select":
            assert shown["promise"].startswith("kept") == (row["certified"] == "True")
            assert shown["accuracy drop"] == f"{100 * float(row['accuracy_drop']):.2f} points"
        else:
            assert shown["dollars per million calls"] == f"{1e6 * float(row['usd']):,.0f}"
            saved = 2e6 * (1000e-6 - float(row["usd"]))
            month = shown["saved in a month of 2,000,000 calls, in dollars"]
            assert float(month.replace(",", "")) == pytest.approx(saved, abs=0.5, rel=0.005)
    if name == "select":
        low, high = slider["promised"]
        certified = [row["certified"] == "True" for row in rows]
        assert [i for i, one in enumerate(certified) if one] == list(range(low, high + 1))


def test_several_thresholds_are_ordered_by_cost(results, tmp_path):
    rows = [
        "thresholds,deferral_rate,reach_last,accuracy,flops,flops_ratio,accuracy_drop,certified",
        "0.9;0.8,0.5,0.3,0.9,500.0,0.5,0.0,True", "0.5;0.5,0.2,0.1,0.8,200.0,0.2,0.1,False",
    ]  # fmt: skip
    columns = dict(
        zip(rows[0].split(","), zip(*(r.split(",") for r in rows[1:]), strict=True), strict=True)
    )
    sweep = Sweep.of({k: list(v) for k, v in columns.items()}, "flops", ["a", "b", "c"])
    assert [sweep.shown(row) for row in range(2)] == ["0.5, 0.5", "0.9, 0.8"]
    assert sweep.figures["reach_last"].tolist() == [0.1, 0.3]
    assert sweep.tiles([1], "95 %")["reach c"] == ["30.0 %"]


def long_sweep(n, seed):
    draw = np.random.default_rng(seed)
    costs = np.sort(draw.uniform(1, 1000, n)).tolist()
    heights = (draw.integers(-1, 2, n).cumsum() / n + 0.5).tolist()
    columns = {
        "threshold": ["-inf", *map(str, np.sort(draw.random(n - 2)).tolist()), "inf"],
        "deferral_rate": [str(i / (n - 1)) for i in range(n)],
        "accuracy": list(map(str, heights)),
        "flops": list(map(str, costs)),
        "flops_ratio": [str(cost / 1000) for cost in costs],
    }
    return columns, costs, heights


@pytest.mark.parametrize("seed", range(3))
def test_what_is_thinned_looks_the_same(seed):
    """Every step of the slider and every column of pixels keeps its ends and extremes."""
    n, bins = 5000, 50
    columns, costs, heights = long_sweep(n, seed)
    sweep = Sweep.of(columns, "flops", ["a", "b"])
    kept = set(sweep.thinned(bins, {1234}))
    assert {0, 1234, n - 1} <= kept
    assert len(kept) <= 4 * 3 * bins + 3
    logs = [math.log(cost) for cost in costs]
    for places, count in ((list(range(n)), bins), (logs, 2 * bins)):
        low, high = places[0], places[-1]
        for number in range(count):
            edges = (low + (high - low) * end / count for end in (number, number + 1))
            first, end = (bisect.bisect_left(places, edge) for edge in edges)
            rows = range(first, n if number == count - 1 else end)
            if rows:
                tops = [max(heights[row] for row in some) for some in (rows, kept & set(rows))]
                bottoms = [min(heights[row] for row in some) for some in (rows, kept & set(rows))]
                assert tops[0] == tops[1]
                assert bottoms[0] == bottoms[1]
                assert {rows[0], rows[-1]} <= kept


def test_fifty_thousand_thresholds_fit(results, tmp_path):
    columns, *_ = long_sweep(50_000, 0)
    (tmp_path / "curve.csv").write_text(
        "\n".join([",".join(columns), *map(",".join, zip(*columns.values(), strict=True))])
    )
    told = summary(results, "validate") | {"unit": "flops"}
    for stage in told["stages"]:
        stage["flops"] = 1000.0
    (tmp_path / "summary.json").write_text(json.dumps(told | {"per_month": None}))
    html = html_report([tmp_path])
    assert len(html.encode()) < 2_000_000
    page = Page(html)
    slider = page.data[0]["slider"]
    assert slider["of"] == 50_000
    assert f"{slider['rows']:,} of 50,000 thresholds are on this page" in page.text
    exact = {f"{100 * float(one):.2f} %" for one in columns["accuracy"]}
    assert set(slider["tiles"]["accuracy"]) <= exact


def test_a_page_that_is_too_large_is_thinned_further_or_refused(results, monkeypatch):
    monkeypatch.setattr(page_module, "_BINS", (400, 20))
    fine = html_report([results / "validate"])
    monkeypatch.setattr(page_module, "LARGEST", len(fine.encode()))
    coarse = html_report([results / "validate"])
    rows = [Page(html).data[0]["slider"]["rows"] for html in (fine, coarse)]
    assert rows[1] < rows[0]
    monkeypatch.setattr(page_module, "LARGEST", len(coarse.encode()))
    with pytest.raises(UsageError, match=r"expected less than .* put fewer folders on it\."):
        html_report([results / "validate"])


def test_a_front_shows_the_config_of_each_cascade(results):
    page = Page(html_report([results / "search"]))
    (part,) = page.data
    listed = [one for one in part["clicks"] if one["file"]]
    assert {one["file"] for one in listed} == set(part["files"])
    for one in listed:
        assert "evidence" not in part["files"][one["file"]]
        assert "thresholds:" in part["files"][one["file"]]
        (threshold,) = re.findall(r"thresholds:\n\s+.*: ([\d.]+)\n", part["files"][one["file"]])
        assert one["thresholds"] == f"{float(threshold):.6g}"
    rows = rows_of(results / "search/frontier.csv")
    assert len(part["clicks"]) == len(rows)
    for one, row in zip(part["clicks"], rows, strict=True):
        assert one["accuracy"] == f"{100 * float(row['accuracy']):.2f} %"


def test_the_other_results_are_there(whole, results):
    text = Page(whole).text
    speed = summary(results, "benchmark", "benchmark.json")["model_only"]["cascade"]
    assert all(f"{row['speedup']:.2f}x" in text for row in speed)
    ran = summary(results, "test", "test.json")
    assert f"The accuracy is {100 * ran['accuracy']:.2f} % on 450 samples" in text
    areas = summary(results, "compare-scores")["scores"]
    assert all(f"{one['area']['value']:.3f} (" in text for one in areas.values())


def test_folders_without_results_are_refused(results, tmp_path):
    with pytest.raises(UsageError, match=r"holds no results of select, validate, .*found nothing"):
        html_report([tmp_path])
    (tmp_path / "curve.csv").write_text("threshold\n")
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(CascadeError, match=r"lit-cascade validate of this version"):
        html_report([tmp_path])
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(CascadeError, match=r"summary.json' cannot be read: Expecting"):
        html_report([tmp_path])


def test_without_the_extra_a_sentence_says_what_to_install(results, monkeypatch):
    monkeypatch.setattr(page_module, "find_spec", lambda name: None if name == "altair" else util)
    with pytest.raises(CascadeError, match=r"pip install 'lit-cascade\[report\]'"):
        html_report([results / "select"])


def test_the_command_writes_into_the_first_folder_and_overwrites_nothing(results):
    run = done(within("report", "test", "benchmark", cwd=results))
    assert "Wrote test/report.html" in run.stdout
    assert "lit-cascade report test benchmark" in (results / "test/report.html").read_text()
    again = within("report", "test", cwd=results)
    assert again.returncode == 2
    assert "already holds report.html" in again.stderr
    done(within("report", "test", "--out", "elsewhere", cwd=results))
    assert (results / "elsewhere/report.html").is_file()
    missing = within("report", "tset", cwd=results)
    assert "there is no file or folder 'tset'. Did you mean 'test'" in missing.stderr
    assert within("report", cwd=results).returncode == 2


def test_a_command_writes_the_page_of_its_own_results(results):
    records = ("--records", "test-0.safetensors", "test-1.safetensors")
    run = done(within("validate", *records, "--report", "--json", "--out", "own", cwd=results))
    assert "own/report.html" in json.loads(run.stdout)["files"]
    own = Page((results / "own/report.html").read_text(encoding="utf-8"))
    assert "Nothing is promised." in own.text
    again = within("validate", *records, "--report", "--out", "own", cwd=results)
    assert "already holds curve.csv, curve.png, summary.json, report.html" in again.stderr
    # without one, that of older results does not stay beside newer ones
    done(within("validate", *records, "--overwrite", "--out", "own", cwd=results))
    assert not (results / "own/report.html").exists()


def test_a_missing_extra_is_told_before_the_work(results, monkeypatch):
    monkeypatch.setattr(page_module, "find_spec", lambda name: None)
    records = ("--records", "test-0.safetensors", "test-1.safetensors")
    run = within("validate", *records, "--report", "--out", "none", cwd=results)
    assert run.returncode == 1
    assert "pip install 'lit-cascade[report]'" in run.stderr
    assert not (results / "none").exists()


def test_samples_on_which_the_models_disagree_are_listed(tmp_path):
    small, large = (Record.load(path) for path in records_in(tmp_path, "test", 1))
    names = ("a<b>", "c&d")  # names of files
    records = []
    for name, record in zip(names, (small, large), strict=True):
        records.append(tmp_path / f"{name}.safetensors")
        replace(record, name=name).save(records[-1])
    words = ("--records", *records, "--policy.temperatures.a<b>", "2", "--save_records")
    done(within("validate", *words, "--out", "v", cwd=tmp_path))
    done(within("report", "v", "--disagreements", "7", cwd=tmp_path))
    expected = []
    for row in range(len(small)):
        one, other = (record.logits[row].float() for record in (small, large))
        if one.argmax() != other.argmax():
            sure = float((one / 2).softmax(0).max())
            answers = (int(one.argmax()), int(small.labels[row]), int(other.argmax()))
            right = [
                name for name, k in zip(names, (0, 2), strict=True) if answers[k] == answers[1]
            ]
            expected.append((-sure, row, answers, (right or ["neither"])[0]))
    text = Page((tmp_path / "v/report.html").read_text(encoding="utf-8")).text
    assert f"Where they disagree: 7 of {len(expected)} samples, the surest first" in text
    assert "samplelabela<b> saysconfidencec&d saysright" in text  # cells have no space between
    classes, at = small.classes, 0
    for sure, row, (first, label, last), right in sorted(expected)[:7]:
        cells = [str(row), classes[label], classes[first], f"{-sure:.4g}", classes[last], right]
        found = text.find("".join(cells), at)
        assert found >= at, cells
        at = found


def test_disagreements_need_records_and_a_score_of_logits(results, tmp_path):
    run = within("report", "validate", "--disagreements", "3", "--out", str(tmp_path), cwd=results)
    assert run.returncode == 2
    assert "validate --save_records keeps them" in run.stderr
    run = within("report", "select", "--disagreements", "3", "--out", str(tmp_path), cwd=results)
    assert "expected results of validate" in run.stderr
    run = within("report", "select", "--disagreements", "-3", "--out", str(tmp_path), cwd=results)
    assert "expected at least 0, got -3" in run.stderr


def test_disagreements_show_texts_and_images_of_the_samples(tmp_path):
    words = ("--config", "digits_pair.yaml", "--save_records", "--save_samples", "4")
    done(within("validate", *words, "--out", "v", cwd=tmp_path))
    kept = json.loads((tmp_path / "v/samples.json").read_text())
    records = [Record.load(tmp_path / f"v/{name}.safetensors") for name in ("small", "large")]
    small, large = (record.logits.float().argmax(1) for record in records)
    sure = records[0].logits.float().softmax(1).amax(1)
    rows = sorted((small != large).nonzero()[:, 0].tolist(), key=lambda row: -float(sure[row]))
    ids = [str(records[0].ids[row]) for row in rows[:4]]
    assert list(kept) == ids
    assert len(ids) == 4
    bad = 'data:image/png;base64,AA" onerror="alert(1)'
    (tmp_path / "v/samples.json").write_text(
        json.dumps(kept | {ids[1]: {"text": "<b>five</b>"}, ids[2]: {"image": bad}})
    )
    done(within("report", "v", "--disagreements", "4", cwd=tmp_path))
    content = (tmp_path / "v/report.html").read_text(encoding="utf-8")
    for one, shown in ((ids[0], True), (ids[1], False), (ids[2], False), (ids[3], True)):
        assert (kept[one]["image"] in content) is shown
    assert "alert(1)" not in content
    assert "&lt;b&gt;five&lt;/b&gt;" in content


def test_samples_are_kept_of_models_and_scores_of_logits(results, tmp_path):
    run = within("validate", "--config", "digits_pair.yaml", "--save_samples", "-1", cwd=tmp_path)
    assert "save_samples: expected at least 0, got -1" in run.stderr
    words = ("--save_samples", "3", "--policy.score", "agreement")
    run = within("validate", "--config", "digits_pair.yaml", *words, cwd=tmp_path)
    assert "expected a score of one model's logits" in run.stderr
    records = [str(path) for path in records_in(tmp_path, "test", 1)]
    run = within("validate", "--records", *records, "--save_samples", "3", cwd=tmp_path)
    assert run.returncode == 2
    assert "records hold no inputs" in run.stderr
