"""The official metric of the data beside accuracy, from the command line."""

import csv
import json
import re
import struct
from pathlib import Path

import pytest
import torch
import yaml

from lit_cascade import Policy, Record
from lit_cascade.analysis.curve import curve as curve_of
from lit_cascade.cli import main
from lit_cascade.core.contract import replay
from lit_cascade.core.curve import operating_points
from tests.cli.runs import done, within
from tests.oracles import metric_by_sklearn
from tests.points import point_of_records
from tests.toys import Points

ROOT = Path(__file__).parents[2]
N = 90


class Judged(Points):
    """Points whose official metric is not accuracy."""

    metric = "f1_macro"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])


def pair(*metrics, classes=2, stages=2):
    """Recorded stages whose data have some metrics; a single one is that of all."""
    torch.manual_seed(3)
    labels = torch.randint(0, classes, (N,))
    hints = torch.nn.functional.one_hot(labels, classes)
    metrics = metrics if len(metrics) > 1 else metrics * stages
    made = []
    for k, name in enumerate(("small", "middle", "large")[-stages:]):
        data = {"name": "toy", "split": "validation"}
        if metrics and metrics[k]:
            data["metric"] = metrics[k]
        logits = torch.randn(N, classes) + (k + 1) * hints
        made.append(Record.from_arrays(name, logits, labels, flops=10.0 ** (k + 3), data=data))
        made[-1].save(f"{name}.safetensors")
    return made


def validate(records, *words, out="o"):
    files = [f"{record.name}.safetensors" for record in records]
    return main(["validate", "--records", *files, "--out", out, *map(str, words)])


def rows_of(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def results(out="o"):
    return json.loads(Path(out, "summary.json").read_text()), rows_of(Path(out, "curve.csv"))


def width_of(out="o"):
    head = (Path(out) / "curve.png").read_bytes()[:24]
    return struct.unpack(">I", head[16:20])[0]


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize(
    ("metric", "heading", "title"),
    [
        ("f1", "F1", "F1"),
        ("f1_macro", "macro F1", "macro F1"),
        ("matthews", "Matthews", "Matthews correlation"),
    ],
)
def test_the_metric_of_the_data_is_in_every_output(capsys, metric, heading, title, stages):
    records = pair(metric, classes=2 if metric == "f1" else 3, stages=stages)
    first, last = records[0].name, records[-1].name
    thresholds = [0.8] * (stages - 1)
    words = ("--policy.thresholds", thresholds, f"--policy.temperatures.{first}", 1.5)
    assert validate(records, *words) == 0
    summary, rows = results()
    policy = Policy((0.8,) * (stages - 1), temperatures=(1.5, *[1.0] * (stages - 1)))
    curve = curve_of(records, policy, metric=metric)
    last_share = ["reach_last"] if stages > 2 else []
    assert list(rows[0]) == [
        "threshold", "deferral_rate", *last_share, "accuracy", metric, "flops", "flops_ratio",
    ]  # fmt: skip
    assert [float(row[metric]) for row in rows] == curve.by_metric.tolist()
    assert [float(row["accuracy"]) for row in rows] == curve.accuracy.tolist()
    assert metric in rows_of("o/curve_uncalibrated.csv")[0]

    assert summary["metric"] == metric
    labels = records[0].labels.tolist()
    for stage, record in zip(summary["stages"], records, strict=True):
        own = record.logits.argmax(dim=1).tolist()
        expected = metric_by_sklearn(metric, own, labels, len(record.classes))
        assert stage[metric] == pytest.approx(expected)
    for part, by in (("operating_points", "accuracy"), ("operating_points_by_metric", metric)):
        told = operating_points(curve, by)
        assert list(summary[part]) == list(told)
        for name, point in summary[part].items():
            assert (point and point[metric]) == (told[name] and told[name].metric)
            assert (point and point["flops"]) == (told[name] and told[name].cost)
    assert list(summary["uncalibrated_by_metric"]) == list(summary["operating_points_by_metric"])
    answers = replay([record.logits for record in records], policy).prediction.tolist()
    given = metric_by_sklearn(metric, answers, labels, len(records[0].classes))
    assert summary["policy"][metric] == pytest.approx(given)
    assert summary["policy"][metric] == point_of_records(records, policy, metric=metric).metric

    table = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert f"stage accuracy {heading} FLOPs MACs parameters temperature" in lines
    shown = f"{100 * summary['stages'][-1][metric]:.2f}" + " %" * (metric != "matthews")
    (line,) = (line for line in lines if re.match(rf"{last} .*% {shown} \d", line))
    for text in (
        "same accuracy as last stage", "at most 0.5 points below", f"same {heading} as last stage",
        f"best {heading}", f"at most 0.5 points of {heading} below",
        f"at most 1.0 points of {heading} below", f"same {heading} as last stage (T = 1)",
    ):  # fmt: skip
        assert any(line.startswith(text) for line in lines)
    for name, label in ((f"best_{metric}", f"best {heading}"), ("best_accuracy", "best accuracy")):
        part = "operating_points" + "_by_metric" * (name != "best_accuracy")
        value = f"{100 * summary[part][name][metric]:.2f}"
        (line,) = (line for line in lines if line.startswith(label) and "(T = 1)" not in line)
        assert value in line
    (line,) = (line for line in lines if line.startswith("the thresholds given 0.8"))
    assert f"{100 * given:.2f}" in line
    assert f"the {title} of {last!r}" in table
    assert f"the accuracy of {last!r}" not in table


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_the_verdict_is_by_the_metric(capsys, metric):
    # both right on the others; the small model alone finds none of class 1, or all of it
    labels = torch.tensor([1, 1, 0, 0])
    title = "F1" if metric == "f1" else "Matthews correlation"
    for small, says in (
        ([0, 0, 0, 0], f"No threshold keeps the {title} of 'large' .* losing {title}"),
        ([1, 1, 0, 0], f"'small' alone has at least the {title} of 'large' on this split"),
    ):
        records = []
        for name, said, flops in (("small", small, 9.0), ("large", [1, 0, 0, 0], 10.0)):
            logits = torch.nn.functional.one_hot(torch.tensor(said), 2).float()
            records.append(
                Record.from_arrays(name, logits, labels, flops=flops, data={"metric": metric})
            )
            records[-1].save(f"{name}.safetensors")
        assert validate(records, "--overwrite") == 0
        text = " ".join(capsys.readouterr().out.split())
        assert re.search(says, text)


def test_without_a_metric_everything_is_as_it_was(capsys):
    records = pair()
    assert validate(records) == 0
    plain = capsys.readouterr().out
    summary, rows = results()
    assert list(rows[0]) == ["threshold", "deferral_rate", "accuracy", "flops", "flops_ratio"]
    assert list(summary) == [
        "n", "unit", "score", "combine", "temperatures", "floors", "stages", "operating_points",
        "policy", "uncalibrated", "provenance", "notes",
    ]  # fmt: skip
    assert list(summary["stages"][0]) == ["name", "accuracy", "flops", "parameters"]
    assert "F1" not in plain
    assert width_of() == 1280

    records = pair("f1")
    assert validate(records, "--metric", "accuracy", out="p") == 0
    assert capsys.readouterr().out.replace("p/", "o/") == plain
    other, _ = results("p")
    assert other | {"provenance": None} == summary | {"provenance": None}
    for name in ("curve.csv", "curve.png"):
        assert Path("o", name).read_bytes() == Path("p", name).read_bytes()


def test_an_option_says_which_metric(capsys):
    records = pair("f1")
    assert validate(records, "--metric", "matthews") == 0
    assert "Matthews" in capsys.readouterr().out
    summary, rows = results()
    assert (summary["metric"], "matthews" in rows[0], "f1" in rows[0]) == ("matthews", True, False)
    assert width_of() == 2080
    assert validate(pair(), "--metric", "f1", out="p") == 0
    assert results("p")[0]["metric"] == "f1"
    assert validate(pair("f1", "matthews"), "--metric", "f1_macro", out="q") == 0
    assert results("q")[0]["metric"] == "f1_macro"


def test_a_record_that_names_no_metric_has_no_say():
    assert validate(pair(None, "f1")) == 0
    assert results()[0]["metric"] == "f1"


@pytest.mark.parametrize(
    ("metrics", "classes", "words", "code", "says"),
    [
        ((), 2, ("--metric", "f2"), 2, "metric: 'f2' is unknown; known are accuracy, f1, f1_macro"),
        ((), 3, ("--metric", "f1"), 2, "got 3 classes; expected f1_macro"),
        (("f1",), 3, (), 2, "got 3 classes; expected f1_macro"),
        (("bleu",), 2, (), 2, "metric: 'bleu' is unknown"),
        (("f1", "matthews"), 2, (), 1, "the records name f1 and matthews"),
    ],
)
def test_a_metric_that_cannot_be_had_is_one_message(capfd, metrics, classes, words, code, says):
    assert validate(pair(*metrics, classes=classes), *words) == code
    error = capfd.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not Path("o").exists()


def test_several_labels_and_scores_alone_are_refused(capfd):
    one, other = pair()
    several = torch.stack([one.labels, 1 - one.labels], dim=1)
    for record in (one, other):
        Record.from_arrays(record.name, record.logits, several, flops=1.0).save(
            f"{record.name}.safetensors"
        )
    assert validate([one, other], "--metric", "matthews") == 1
    assert "matthews counts one label per sample" in capfd.readouterr().err
    for record in (one, other):
        Record.from_arrays(record.name, score=[0.5], correct=[1], flops=1.0).save(
            f"{record.name}.safetensors"
        )
    assert validate([one, other], "--metric", "matthews") == 1
    assert "not the answers, which the metric matthews needs" in capfd.readouterr().err


@pytest.mark.parametrize("metric", ["f1_macro", "matthews"])
def test_a_cascade_run_for_real_has_the_metric_of_its_replay(records, metric, capsys):
    words = ("--metric", metric)
    files = [str(path) for path in records]
    options = ("--policy.thresholds.small", "0.92", "--out", "judged")
    assert main(["validate", "--records", *files, *options, *words]) == 0
    run = done(
        within("test", "--config", "digits_pair.yaml", "--out", "ran", *words, cwd=Path.cwd())
    )
    told, ran = results("judged")[0]["policy"], json.loads(Path("ran/test.json").read_text())
    assert (ran["metric"], ran[metric]) == (metric, told[metric])
    assert ran["accuracy"] == told["accuracy"]
    shown = f"{100 * told[metric]:.2f}"
    assert f"macro F1 {shown} %, " in run.stdout or f"Matthews {shown}, " in run.stdout


def test_the_metric_of_a_data_set_reaches_test_validate_and_the_logger():
    toy = {"class_path": "tests.cli.test_metric.Judged", "init_args": {"n": 60}}
    stages = {
        f"net{k}": {
            "network": {"class_path": "tests.toys.Net", "init_args": {"width": 4, "seed": k}}
        }
        for k in range(2)
    }
    config = {
        "model": {"stages": stages},
        "data": {
            "class_path": "lit_cascade.data.Datasets",
            "init_args": {"validation": toy, "batch_size": 8, "name": "points"},
        },
        "policy": {"thresholds": {"net0": 0.5}},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }
    Path("toy.yaml").write_text(yaml.safe_dump(config))
    logger = ("--trainer.logger", "lightning.pytorch.loggers.CSVLogger")
    logger += ("--trainer.logger.init_args.save_dir", "logs")
    for command, more in (("validate", logger), ("test", ())):
        words = (command, "--config", "toy.yaml", "--out", command, *more)
        done(within(*words, cwd=Path.cwd()))
    told, ran = results("validate")[0], json.loads(Path("test/test.json").read_text())
    assert told["metric"] == ran["metric"] == "f1_macro"
    assert told["provenance"]["data"]["metric"] == "f1_macro"
    assert told["policy"]["f1_macro"] == ran["f1_macro"]
    (log,) = Path("logs").glob("**/metrics.csv")
    assert float(rows_of(log)[0]["val_f1_macro@0.5"]) == pytest.approx(told["policy"]["f1_macro"])

    for stage in stages.values():  # of which nothing may be asked
        stage["network"]["class_path"] = "tests.toys.BadNet"
    Path("bad.yaml").write_text(yaml.safe_dump(config))
    for file, metric, says in (
        ("toy.yaml", "f1", "f1 is the F1 of the second of two classes, got 3 classes"),
        ("bad.yaml", "bleu", "metric: 'bleu' is unknown"),
    ):
        words = ("validate", "--config", file, "--metric", metric, "--out", "no")
        refused = within(*words, cwd=Path.cwd())
        assert refused.returncode == 2
        assert says in refused.stderr
