"""Records of predictions: one model's file, and the table of many models."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from lit_cascade import Record
from lit_cascade.cli import main

NAMES = ["cat", "dog", "owl"]
LABELS = [0, 1, 2, 2, 1, 0]
SMALL = [0, 1, 1, 2, 0, 0]
LARGE = [0, 1, 2, 2, 1, 1]
SURE = [0.5, 0.75, 0.25, 1.0, 0.0, 0.5]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a table of two services, and what belongs to it."""
    monkeypatch.chdir(tmp_path)
    table = pa.table(
        {
            "file": [f"{row}.png" for row in range(6)],
            "label": pa.array(LABELS, pa.int16()),
            "animal": [NAMES[label] for label in LABELS],
            "right": [[0], [1, 2], [], [2], [1], [0]],
            "small_answer": pa.array(SMALL, pa.int16()),
            "small_sure": SURE,
            "large_answer": pa.array(LARGE, pa.int16()),
            "named_answer": [("Cat", "dog", "OWL")[answer] for answer in LARGE],
        }
    )
    pa.parquet.write_table(table, "all.parquet")
    pa.csv.write_csv(table.drop_columns(["right"]), "all.csv")
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    (tmp_path / "other.txt").write_text("Owl\ncat\ndog\nfish\n")
    (tmp_path / "costs.csv").write_text("model,flops,note\nsmall,10,a\nlarge,200,b\nempty,,c\n")
    (tmp_path / "prices.csv").write_text(
        "dataset,service,usd_per_call,samples\n"
        "pets,small,0.001,6\npets,large,0.25,6\nfaces,small,9,6\nfaces,large,99,6\n"
    )
    return tmp_path


def words(**changes):
    given = {"name": "net", "predictions": "all.parquet:small_answer", "flops": "7", "out": "o"}
    given |= {"labels": "all.parquet:label", "classes": "classes.txt"} | changes
    return ["import", *(f"--{key}={value}" for key, value in given.items() if value is not None)]


def of_table(*more, **changes):
    given = {"name": None, "table": "all.parquet", "predictions": "{}_answer", "labels": "label"}
    return [*words(**given | {"flops": "costs.csv"} | changes), *more]


def records(folder="o"):
    found = map(Record.load, sorted(Path(folder).glob("*.safetensors")))
    return {record.name: record for record in found}


def imported(*words):
    assert main(list(words)) == 0
    return records()


@pytest.mark.parametrize("source", ["all.parquet", "all.csv"])
@pytest.mark.parametrize("labels", ["label", "animal"])
@pytest.mark.parametrize("column", ["large_answer", "named_answer"])
def test_predictions_and_labels_are_numbers_or_names(here, source, labels, column):
    record = imported(*words(predictions=f"{source}:{column}", labels=f"{source}:{labels}"))["net"]
    assert record.prediction.tolist() == LARGE
    assert record.labels.tolist() == LABELS
    assert record.classes == tuple(NAMES)
    assert record.logits is None
    assert record.score is None
    assert record.model == {"imported": "predictions"}


def test_predictions_may_have_a_score_and_no_labels(here, capsys):
    record = imported(*words(score="all.parquet:small_sure", labels=None))["net"]
    assert record.score.tolist() == SURE
    assert record.labels is None
    assert "Without --labels" in capsys.readouterr().out


def test_without_classes_they_are_counted_and_this_is_said(here, capsys):
    record = imported(*words(classes=None, predictions="all.csv:small_answer"))["net"]
    assert record.classes == ("0", "1", "2")
    assert "Without --classes there are 3 classes" in capsys.readouterr().out
    assert len(imported(*words(classes=7), "--overwrite")["net"].classes) == 7


@pytest.mark.parametrize("source", ["all.parquet", "all.csv"])
def test_a_table_of_models_is_one_command(here, capsys, source):
    found = imported(*of_table(table=source, score="{}_sure", ids="file", data="pets"))
    assert list(found) == ["large", "small"]
    assert found["small"].prediction.tolist() == SMALL
    assert found["small"].score.tolist() == SURE
    assert found["large"].prediction.tolist() == LARGE
    assert found["large"].score is None
    for record, flops in ((found["small"], 10), (found["large"], 200)):
        assert record.labels.tolist() == LABELS
        assert record.ids == tuple(f"{row}.png" for row in range(6))
        assert record.cost().tolist() == [flops] * 6
        assert record.data == {"name": "pets"}
    shown = capsys.readouterr().out
    assert "Left out, as costs.csv has no row for them: named." in shown
    assert "1 model of 2 without confidences, as there is no column {}_sure" in shown


def test_the_records_of_a_table_are_those_of_single_imports(here):
    table = imported(*of_table(score="{}_sure"))
    alone = words(name="small", score="all.parquet:small_sure", flops=10, out="alone")
    assert main(alone) == 0
    assert records("alone")["small"].to_bytes() == table["small"].to_bytes()


def test_models_are_picked_by_name_and_pattern(here):
    assert set(imported(*of_table("--models", "sm*", "--exclude", "named"))) == {"small"}
    assert set(imported(*of_table("--overwrite", "--exclude", "s*", flops=3))) == {
        "large",
        "named",
        "small",  # of the run before
    }


def test_the_columns_of_whole_numbers_are_the_models_by_default(here):
    table = pa.table({"id": [5, 6], "label": [0, 1], "a": [0, 1], "b": [1, 1], "b_p": [0.5, 1.0]})
    pa.parquet.write_table(table, "plain.parquet")
    given = {"table": "plain.parquet", "predictions": None, "classes": 2, "flops": 3}
    found = imported(*of_table(**given, score="{}_p", ids="id"))
    assert list(found) == ["a", "b"]
    assert found["b"].score.tolist() == [0.5, 1.0]
    assert found["a"].ids.tolist() == [5, 6]


def test_prices_are_picked_by_model_and_data(here):
    given = {"flops": None, "cost": "usd=prices.csv", "data": "pets"}
    found = imported(*of_table("--models", "small", "large", **given))
    assert found["small"].cost("usd").tolist() == [0.001] * 6
    assert found["large"].cost("usd").tolist() == [0.25] * 6
    given["cost"] = "usd=prices.csv:samples"
    found = imported(*of_table("--overwrite", "--models", "small", "large", **given))
    assert found["small"].cost("usd").tolist() == [6.0] * 6


def test_several_right_labels_and_none(here, capsys):
    found = imported(*of_table(labels="right"))
    assert (
        "1 sample of 6 is left out: the list of right labels is empty." in capsys.readouterr().out
    )
    kept = [0, 1, 3, 4, 5]
    for name, answers in (("small", SMALL), ("large", LARGE)):
        record = found[name]
        assert record.ids.tolist() == kept
        assert record.prediction.tolist() == [answers[row] for row in kept]
        assert record.labels.tolist() == [[0, -1], [1, 2], [2, -1], [1, -1], [0, -1]]
    assert found["small"].right.tolist() == [True, True, True, False, True]
    alone = words(labels="all.parquet:right", ids="all.parquet:file", name="net")
    record = imported(*alone)["net"]
    assert record.ids == tuple(f"{row}.png" for row in kept)
    assert record.labels.tolist() == found["small"].labels.tolist()


def test_lists_of_names_are_labels_too(here):
    lists = [["cat"], ["dog", "owl"], [], ["owl"], ["dog"], ["cat"]]
    pa.parquet.write_table(pa.table({"right": lists}), "lists.parquet")
    record = imported(*words(labels="lists.parquet:right"))["net"]
    assert record.labels.tolist() == [[0, -1], [1, 2], [2, -1], [1, -1], [0, -1]]


def test_logits_without_a_right_label_are_left_out_too(here):
    logits = np.eye(3)[SMALL]
    np.save("logits.npy", logits)
    given = {"predictions": None, "logits": "logits.npy", "labels": "all.parquet:right"}
    record = imported(*words(**given))["net"]
    assert record.logits.tolist() == logits[[0, 1, 3, 4, 5]].tolist()
    assert record.ids.tolist() == [0, 1, 3, 4, 5]


def test_classes_in_another_order_are_aligned_by_name(here):
    other = [("Owl", "cat", "dog").index({"owl": "Owl"}.get(NAMES[k], NAMES[k])) for k in LARGE]
    pa.parquet.write_table(
        pa.table({"label": LABELS, "small": SMALL, "large": other}), "orders.parquet"
    )
    given = {"table": "orders.parquet", "predictions": None, "model_classes": "lar*=other.txt"}
    found = imported(*of_table(**given))
    assert found["large"].prediction.tolist() == LARGE
    assert found["small"].prediction.tolist() == SMALL


def test_another_order_of_classes_is_suspected(here, capsys):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 300)
    right = generator.random(300) < 0.9
    answers = np.where(right, labels, (labels + 1) % 3)
    off_by_one = (answers + 1) % 3
    table = pa.table({"label": labels, "good": answers, "off": off_by_one, "chance": labels * 0})
    pa.parquet.write_table(table, "off.parquet")
    imported(*of_table(table="off.parquet", predictions=None, flops=1))
    shown = capsys.readouterr().out
    found = re.search(r"Warning: the classes of off \((.*) right, (.*) with its classes in", shown)
    assert found
    assert "good (" not in shown
    assert "chance (" not in shown
    there = slice(1, None, 2)
    rates = [float(np.mean((one == labels)[there])) for one in (off_by_one, answers)]
    assert list(found.groups()) == [f"{100 * rate:.1f} %" for rate in rates]


WRONG = [
    (words(labels=None, logits="x.npy"), 2, "got --logits and --predictions"),
    (words(correct="x.npy"), 2, "--correct: belongs to --score; with --predictions"),
    (words(name=None), 2, "expected --name NAME or --table FILE"),
    ([*words(), "--models", "a"], 2, "--models: belongs to --table FILE"),
    (of_table(name="x"), 2, "--name: belongs to a single model"),
    (of_table(logits="x.npy"), 2, "--logits: belongs to a single model"),
    (of_table(table="none.csv"), 2, "--table: there is no file 'none.csv'"),
    (of_table(table="classes.txt"), 2, "--table: expected a file .csv or .parquet"),
    (of_table(predictions="answer"), 2, "--predictions: with --table.*such as {}_prediction; got"),
    (of_table(predictions="{}_anser"), 2, "no column of all.parquet is like {}_anser.*it has file"),
    (of_table(score="sure"), 2, "--score: with --table"),
    (
        of_table(score="{}_p"),
        2,
        "--score: all.parquet has no column 'small_p', nor one for another",
    ),
    (of_table(labels="lable"), 2, "--labels: column of all.parquet: 'lable'.*Did you mean 'label'"),
    (of_table(ids="label"), 1, "--ids: 0 occurs 2 times"),
    (of_table("--models", "smal"), 2, "--models: 'smal' is unknown.*Did you mean 'small'"),
    (of_table("--models", "x*"), 2, r"--models: no model matches 'x\*'; there are 3, such as"),
    (of_table("--models", "named"), 2, "--flops: 'costs.csv' has no row for named"),
    (of_table("--exclude", "*"), 2, "--models: none is left"),
    (of_table(flops=None), 2, "--flops: a record needs the cost"),
    (of_table(flops="none.csv"), 2, "--flops: cannot read 'none.csv'"),
    (of_table(flops="prices.csv"), 2, "which column is the cost in flops.*usd_per_call, samples"),
    (of_table(flops="prices.csv:usd_per_call"), 2, "the model 'small' occurs twice"),
    (of_table(flops="texts.csv"), 2, "which column names the models.*first, second.*'model'"),
    (
        of_table(flops=None, cost="usd=prices.csv"),
        2,
        "the model 'small' occurs twice. Its column dataset tells rows apart.*--data",
    ),
    (
        of_table(flops=None, cost="usd=prices.csv", data="pet"),
        2,
        "--data: 'pet' is unknown.*Did you mean 'pets'",
    ),
    (of_table(cost="eur=prices.csv", data="pets"), 2, "which column is the cost in eur.*COLUMN"),
    (of_table(classes=None, labels="animal"), 2, "--labels: they are names.*give --classes"),
    (
        of_table(classes="two.txt", flops=1),
        1,
        r"column 'small_answer': 1 answer outside the 2 classes \(0 to 1\), first 2 in row 3.*own",
    ),
    (
        of_table(classes="owls.txt", labels="label", flops=1),
        1,
        "column 'named_answer': 'OWL' in row 2 is none of the 3 classes.*Did you mean 'owlet'",
    ),
    (words(model_classes="net"), 2, "--model_classes: expected MODEL=FILE"),
    (words(model_classes="ned=other.txt"), 2, "--model_classes: 'ned' is unknown"),
    (words(model_classes="net=colours.txt"), 1, "have no name in common"),
    (words(model_classes="net=pets.txt"), 1, "1 answer of none of the 3 classes, first 'fish'"),
    (words(model_classes="net=two.txt"), 1, "1 answer outside the 2 classes"),
    (words(predictions="all.parquet:small_sure"), 1, "must be whole numbers, got.*fractions"),
]


@pytest.mark.parametrize(("command", "code", "says"), WRONG)
def test_a_mistake_is_one_clear_message(here, capsys, command, code, says):
    (here / "two.txt").write_text("cat\ndog\n")
    (here / "texts.csv").write_text("first,second,flops\na,b,1\n")
    (here / "owls.txt").write_text("cat\ndog\nowlet\n")
    (here / "pets.txt").write_text("cat\ndog\nfish\n")
    (here / "colours.txt").write_text("red\ngreen\nblue\n")
    assert main(command) == code
    error = capsys.readouterr().err
    assert len([line for line in error.splitlines() if ": error: " in line]) == 1
    assert "Traceback" not in error
    assert re.search(says, error), error
    assert not (here / "o").exists()


def test_the_summary_lists_every_record(here, capsys):
    assert main(of_table("--json")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in summary["records"]] == ["small", "large"]
    assert len(summary["files"]) == 2


VALIDATION = Path(__file__).parents[3] / "shared/data/imagenet_predictions/validation.parquet"
SERVICES = Path(__file__).parents[3] / "shared/data/api_predictions"


@pytest.mark.skipif(not VALIDATION.is_file(), reason="no ImageNet predictions")
def test_the_models_of_imagenet_are_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = ["--classes", VALIDATION.parent / "wnids.txt", "--flops", 1e9, "--out", "o"]
    given += ["--table", VALIDATION, "--labels", "real_labels", "--score", "{}_probability"]
    given += ["--exclude", "fv_*", "--models", "resnet*", "imagenetx_*", "fv_*"]
    assert main(["import", *map(str, given)]) == 0
    found = records()
    assert {"resnet50", "resnet_v2_152_tf", "imagenetx_ViT"} <= set(found)
    table = pyarrow.parquet.read_table(VALIDATION, columns=["resnet50", "real_labels"])
    right = table["real_labels"].to_pylist()
    kept = [row for row, labels in enumerate(right) if labels]
    answers = table["resnet50"].to_pylist()
    record = found["resnet50"]
    assert record.ids.tolist() == kept
    hits = sum(answers[row] in right[row] for row in kept)
    assert int(record.right.sum()) == hits
    assert found["imagenetx_ViT"].score is not None
    assert "3,163 samples of 50,000 are left out" in capsys.readouterr().out


@pytest.mark.skipif(not SERVICES.is_dir(), reason="no predictions of services")
def test_services_and_their_prices_are_one_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--table", SERVICES / "ferplus.parquet", "--labels", "label", "--data", "ferplus"]
    given += ["--predictions", "{}_prediction", "--score", "{}_confidence", "--out", "o"]
    given += ["--cost", f"usd={SERVICES / 'prices.csv'}", "--classes", 7]
    assert main(["import", *map(str, given)]) == 0
    with (SERVICES / "prices.csv").open() as file:
        rows = [row.strip().split(",") for row in file]
    published = {row[1]: (float(row[2]), float(row[4])) for row in rows if row[0] == "ferplus"}
    found = records()
    assert set(found) == set(published)
    for name, (price, accuracy) in published.items():
        assert set(found[name].cost("usd").tolist()) == {price}
        assert float(found[name].right.double().mean()) == pytest.approx(accuracy, abs=1e-6)
