"""Records from arrays: every kind of file, and what a user may get wrong."""

import json
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from lit_cascade import Record
from lit_cascade.cli import main

LOGITS = np.array(
    [[2.0, 0.5, -1.0], [0.0, 3.0, 0.25], [1.0, 1.5, 1.25], [-2.0, 0.0, 4.0]], dtype=np.float32
)
LABELS = np.array([0, 1, 2, 2])
NAMES = ["cat", "dog", "owl"]
ANIMALS = [NAMES[label] for label in LABELS]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the same small model in every kind of file."""
    monkeypatch.chdir(tmp_path)
    np.save("logits.npy", LOGITS)
    np.save("labels.npy", LABELS)
    np.savez("one.npz", LOGITS)
    np.savez("both.npz", logits=LOGITS, labels=LABELS)
    columns = {name: LOGITS[:, k] for k, name in enumerate(NAMES)}
    table = pa.table({**columns, "label": LABELS, "animal": ANIMALS})
    for name, some in (("logits", table.select(NAMES)), ("all", table)):
        pa.csv.write_csv(some, f"{name}.csv")
        pa.parquet.write_table(some, f"{name}.parquet")
    pa.parquet.write_table(pa.table({"logits": LOGITS.tolist(), "y": LABELS}), "lists.parquet")
    torch.save(torch.from_numpy(LOGITS), "logits.pt")
    torch.save({"logits": torch.from_numpy(LOGITS)}, "dict.pt")
    save_file({"logits": torch.from_numpy(LOGITS)}, "logits.safetensors")
    (tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    (tmp_path / "animals.txt").write_text("".join(f"{animal}\n" for animal in ANIMALS))
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n\n")
    return tmp_path


def words(**changes):
    given = {"name": "net", "logits": "logits.npy", "labels": "labels.npy", "flops": "8.11e7"}
    given |= {"out": "o"} | changes
    return ["import", *(f"--{key}={value}" for key, value in given.items() if value is not None)]


def imported(*more, **changes):
    assert main([*words(**changes), *more]) == 0
    return Record.load(f"o/{changes.get('name', 'net')}.safetensors")


@pytest.mark.parametrize(
    "source",
    [
        "logits.npy", "one.npz", "one.npz:arr_0", "both.npz:logits", "logits.csv", "logits.parquet",
        "all.csv:cat,dog,owl", "all.parquet:cat,dog,owl", "lists.parquet:logits", "logits.pt",
        "dict.pt", "dict.pt:logits", "logits.safetensors",
    ],
)  # fmt: skip
def test_logits_of_every_kind_of_file_are_the_same_record(here, source):
    record = imported(logits=source, classes="classes.txt")
    assert record.logits.dtype == torch.float32
    assert record.logits.tolist() == LOGITS.tolist()
    assert record.labels.tolist() == LABELS.tolist()
    assert record.classes == ("cat", "dog", "owl")
    assert record.ids.tolist() == [0, 1, 2, 3]
    assert record.cost("flops").tolist() == [8.11e7] * 4


@pytest.mark.parametrize(
    "source",
    [
        "labels.npy", "both.npz:labels", "all.csv:label", "all.parquet:label", "labels.txt",
        "animals.txt", "all.csv:animal", "all.parquet:animal",
    ],
)  # fmt: skip
def test_labels_are_numbers_or_names_of_classes(here, source):
    record = imported(labels=source, classes="classes.txt")
    assert record.labels.tolist() == LABELS.tolist()


def test_a_column_of_height_n_and_width_one_is_a_column(here):
    np.save("labels.npy", LABELS[:, None])
    assert imported().labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("classes", [None, "classes.txt"])
@pytest.mark.parametrize("source", ["logits.npy", "logits.csv", "logits.parquet"])
def test_columns_name_the_classes_unless_classes_are_given(here, capsys, source, classes):
    (here / "classes.txt").write_text("a\nb\nc\n")
    record = imported(logits=source, classes=classes)
    told = "Classes are named after the columns: cat, dog, owl" in capsys.readouterr().out
    named = source != "logits.npy" and classes is None
    assert told == named
    default = ("0", "1", "2") if classes is None else ("a", "b", "c")
    assert record.classes == (tuple(NAMES) if named else default)


@pytest.mark.parametrize(
    ("given", "option", "kept"),
    [
        ("float16", "float32", torch.float16),
        ("float32", "float32", torch.float32),
        ("float64", "float32", torch.float32),
        ("float64", "float16", torch.float16),
        (">f8", "float32", torch.float32),
        ("int64", "float32", torch.float32),
    ],
)
def test_types_of_logits(here, given, option, kept):
    np.save("logits.npy", LOGITS.round().astype(given))
    record = imported(dtype=option)
    assert record.logits.dtype == kept
    assert record.logits.tolist() == LOGITS.round().tolist()


def test_probabilities_become_logits_with_the_same_softmax(here):
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    np.save("p.npy", probabilities)
    record = imported(logits=None, probabilities="p.npy")
    softmax = record.logits.softmax(dim=1).numpy()
    np.testing.assert_allclose(softmax, probabilities, rtol=1e-6)
    assert record.model == {"imported": "probabilities"}


def test_a_probability_of_zero_has_a_finite_logarithm(here, capsys):
    np.save("p.npy", np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]]))
    record = imported(logits=None, probabilities="p.npy")
    assert float(record.logits.min()) == pytest.approx(math.log(2.0**-126))
    assert record.logits[1].tolist() == pytest.approx([-87.3365, math.log(0.5), math.log(0.5)])
    assert "6 probabilities are 0; their logarithm is taken as -87.3" in capsys.readouterr().out


def test_logits_that_look_like_probabilities_are_kept_with_a_note(here, capsys):
    np.save("p.npy", np.full((4, 3), 1 / 3))
    record = imported(logits="p.npy")
    assert float(record.logits[0, 0]) == pytest.approx(1 / 3)
    assert "give them as --probabilities" in capsys.readouterr().out
    imported("--overwrite")
    assert "give them as --probabilities" not in capsys.readouterr().out


@pytest.mark.parametrize("correct", ["1\n0\n1\n1\n", "true\nFalse\nTRUE\ntrue\n"])
def test_scores_of_a_model_without_logits(here, capsys, correct):
    (here / "correct.txt").write_text(correct)
    np.save("score.npy", np.array([0.9, 0.4, 0.8, 0.7]))
    np.save("latency.npy", np.array([1.0, 2.0, 3.0, 4.0]))
    record = imported(
        "--cost", "usd=0.002", "--cost", "latency_s=latency.npy",
        logits=None, labels=None, flops=None, score="score.npy", correct="correct.txt", name="api",
    )  # fmt: skip
    assert record.logits is None
    assert record.score.tolist() == pytest.approx([0.9, 0.4, 0.8, 0.7])
    assert record.correct.tolist() == [True, False, True, True]
    assert record.cost("usd").tolist() == [0.002] * 4
    assert record.cost("latency_s").tolist() == [1.0, 2.0, 3.0, 4.0]
    shown = capsys.readouterr().out
    for text in (
        "api",
        "75.00 %",
        "dollars per million calls",
        "2,000",
        "seconds",
        "2.5",
        "unknown",
    ):
        assert text in shown


def test_what_describes_the_data(here):
    (here / "ids.txt").write_text("007\n008\nx\n10\n")
    record = imported(
        ids="ids.txt", data="imagenet", split="validation", source="ilsvrc", parameters=272_474
    )
    assert record.ids == ("007", "008", "x", "10")
    assert record.data == {"name": "imagenet", "split": "validation", "source": "ilsvrc"}
    assert record.parameters == 272_474
    assert set(record.info) == {"versions", "date"}


@pytest.mark.parametrize(
    ("text", "ids"), [("3\n1\n2\n9\n", [3, 1, 2, 9]), ("03\n1\n2\n9\n", ("03", "1", "2", "9"))]
)
def test_ids_are_whole_numbers_only_as_these_are_written(here, text, ids):
    (here / "ids.txt").write_text(text)
    found = imported(ids="ids.txt").ids
    assert (found.tolist() if isinstance(ids, list) else found) == ids


def test_flops_per_sample_from_a_file(here):
    np.save("flops.npy", np.array([1, 2, 3, 4]))
    assert imported(flops="flops.npy").cost().tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_path_may_hold_colons(here):
    (here / "a:b").mkdir()
    (here / "both.npz").rename(here / "a:b" / "both.npz")
    assert imported(logits="a:b/both.npz:logits").logits.tolist() == LOGITS.tolist()


def test_an_imported_record_joins_another_in_a_cascade(here):
    imported("--overwrite")
    imported(name="big", logits="both.npz:logits", flops="1e9")
    pair = ["o/net.safetensors", "o/big.safetensors"]
    assert main(["validate", "--records", *pair, "--out", "judged"]) == 0
    summary = json.loads((here / "judged/summary.json").read_text())
    assert [stage["accuracy"] for stage in summary["stages"]] == [0.75, 0.75]


def test_a_new_folder_by_default_and_nothing_overwritten(here, capsys):
    for number in (1, 2):
        assert main(words(out=None)) == 0
        assert (here / f"runs/import-{number}/net.safetensors").is_file()
    first = imported()
    assert main(words(flops="1")) == 2
    assert "already holds net.safetensors" in capsys.readouterr().err
    assert Record.load("o/net.safetensors").cost().tolist() == first.cost().tolist()
    assert imported("--overwrite", flops="1").cost().tolist() == [1.0] * 4


ODD = {
    "nan.npy": np.array([[1, 2, 3], [4, np.nan, 6], [7, 8, 9], [1, 2, np.inf]]),
    "large.npy": np.full((4, 3), 1e300),
    "half.npy": np.full((4, 3), 7e4),
    "three.npy": np.array([0, 1, 2]),
    "over.npy": np.array([0, 1, 2, 3]),
    "fractions.npy": np.array([0.0, 1.5, 2.0, 2.0]),
    "flags.npy": np.array([True, False, True, True]),
    "onehot.npy": np.eye(3)[LABELS],
    "complex.npy": LOGITS.astype(complex),
    "big.npy": np.array([[0.5, 0.5, 0.0], [0.5, 1.5, -1.0], [1, 0, 0], [1, 0, 0]]),
    "sum.npy": np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.5], [1, 0, 0], [1, 0, 0]]),
    "twos.npy": np.array([0, 1, 2, 1]),
    "raw.csv": "0.5,1.5,2.5\n1,2,3\n",
    "index.csv": ",a,b\n0,1,2\n1,3,4\n",
    "same.csv": "a,a\n1,2\n",
    "holes.csv": "a,b\n1,2\n3,\n",
    "empty.csv": "",
    "owls.txt": "cat\ndog\nowlet\nowl\n",
    "gap.txt": "cat\n\nowl\n",
    "two.txt": "cat\ndog\n",
    "twice.txt": "cat\ndog\ncat\n",
    "text.npy": "no numpy file",
    "text.npz": "no numpy file",
    "text.parquet": "no parquet file",
    "text.pt": "no torch file",
    "text.safetensors": "no safetensors file",
    "logits.jpg": "",
}


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"name": "a/b"}, 2, "--name: 'a/b' cannot name a file"),
        (
            {"logits": None},
            2,
            "one of --logits, --probabilities, --predictions, or --score.*got none",
        ),
        ({"probabilities": "logits.npy"}, 2, "got --logits and --probabilities"),
        ({"logits": None, "score": "labels.npy"}, 2, "--correct: needed with --score"),
        ({"correct": "labels.npy"}, 2, "--correct: belongs to --score"),
        ({"logits": "none.npy"}, 2, "--logits: there is no file 'none.npy'"),
        ({"logits": "logits.jpg"}, 2, r"--logits: expected a file .npy.*or .pt, got 'logits.jpg'"),
        ({"logits": "labels.txt"}, 2, "--logits: expected a file"),
        ({"logits": "logits.npy:x"}, 2, "holds one array; leave out ':x'"),
        ({"logits": "both.npz"}, 2, "several arrays: logits, labels. Pick one as both.npz:logits"),
        ({"logits": "both.npz:x"}, 2, "no array 'x' among logits, labels"),
        ({"labels": "all.csv"}, 2, "--labels: expected one column.*has cat, dog, owl, label, anim"),
        ({"labels": "all.csv:lable"}, 2, "'lable' is unknown.*Did you mean 'label'"),
        ({"logits": "all.csv"}, 1, "column 'animal' of 'all.csv' holds no numbers"),
        ({"logits": "object.npy"}, 1, "--logits: 'object.npy' cannot be read.*Python objects"),
        ({"logits": "object.npz"}, 1, "--logits: 'object.npz' cannot be read.*Python objects"),
        ({"logits": "object.pt"}, 1, "--logits: 'object.pt' cannot be read.*Python objects"),
        ({"logits": "text.npy"}, 1, "'text.npy' cannot be read"),
        ({"logits": "text.npz"}, 1, "'text.npz' cannot be read"),
        ({"logits": "text.parquet"}, 1, "'text.parquet' cannot be read"),
        ({"logits": "text.pt"}, 1, "'text.pt' cannot be read"),
        ({"logits": "text.safetensors"}, 1, "'text.safetensors' cannot be read"),
        ({"logits": "empty.csv"}, 1, "'empty.csv' cannot be read"),
        ({"logits": "raw.csv"}, 1, "has no header: its first row is 0.5, 1.5, 2.5"),
        ({"logits": "index.csv"}, 1, "column 1 of 'index.csv' has no name"),
        ({"logits": "same.csv"}, 1, "two columns 'a'"),
        ({"logits": "holes.csv"}, 1, "1 cells of column 'b' are empty, first in row 1"),
        (
            {"logits": "nan.npy"},
            1,
            "--logits: numbers that are NaN.*in 2 of 4 rows, first in row 1",
        ),
        ({"logits": "large.npy"}, 1, "too large for float32 in 4 of 4 rows"),
        ({"logits": "half.npy", "dtype": "float16"}, 1, "reach 70000; use --dtype float32"),
        ({"logits": "complex.npy"}, 1, "expected numbers or text, got an array of complex128"),
        ({"logits": "labels.npy"}, 1, r"--logits: expected shape \(samples, classes\), got \(4,\)"),
        ({"labels": "three.npy"}, 1, "--labels: 3 values for 4 samples"),
        ({"labels": "over.npy"}, 1, "label 3 at row 3 is outside the 3 classes"),
        ({"labels": "fractions.npy"}, 1, "labels must be whole numbers"),
        ({"labels": "flags.npy"}, 1, "got true and false; whether answers are right is --correct"),
        ({"labels": "onehot.npy"}, 1, r"--labels: expected one value per sample, got shape \(4, 3"),
        ({"labels": "animals.txt"}, 2, "--labels: they are names, such as 'cat'; give --classes"),
        (
            {"labels": "owls.txt", "classes": "classes.txt"},
            1,
            r"'owlet' in row 2 is none of the 3 classes \(cat, dog, owl\). Did you mean 'owl'",
        ),
        ({"classes": "two.txt"}, 1, "--classes: 2 names for logits of 3 classes"),
        ({"classes": "twice.txt"}, 1, "--classes: 'cat' occurs 2 times"),
        ({"classes": "gap.txt"}, 1, "--classes: 'gap.txt': line 2 is empty"),
        ({"ids": "three.npy"}, 1, "--ids: 3 values for 4 samples"),
        ({"ids": "twos.npy"}, 1, "--ids: 1 occurs 2 times"),
        ({"flops": None}, 2, "--flops: a record needs the cost"),
        ({"flops": "81M"}, 2, "--flops: there is no file '81M'. It is no number either"),
        (
            {"flops": "-1"},
            1,
            "flops must be 4 finite numbers of at least 0, one per sample, got -1.",
        ),
        ({"flops": "nan"}, 1, "flops must be 4 finite numbers"),
        ({"flops": "three.npy"}, 1, "--flops: 3 values for 4 samples"),
        ({"flops": "animals.txt"}, 1, "--flops: expected numbers, got 'cat'"),
        ({"cost": "usd"}, 2, "--cost: expected NAME=NUMBER or NAME=FILE.*got 'usd'"),
        ({"cost": "flops=3"}, 2, "the cost 'flops' is given twice"),
        ({"cost": "my-cost=3"}, 1, "'my-cost' cannot name a cost"),
        (
            {"logits": None, "probabilities": "big.npy"},
            1,
            "from 0 to 1, got 1.5 in row 1, column 1",
        ),
        ({"logits": None, "probabilities": "sum.npy"}, 1, "rows that sum to 1, got 1.5 in row 1"),
        ({"logits": None, "probabilities": "logits.npy"}, 1, "If these are logits"),
        (
            {"logits": None, "labels": None, "score": "labels.npy", "correct": "over.npy"},
            1,
            "--correct: expected 0 and 1, or true and false, got 2",
        ),
        (
            {"logits": None, "labels": None, "score": "animals.txt", "correct": "flags.npy"},
            1,
            "--score: expected numbers, got 'cat'",
        ),
        ({"dtype": "float64"}, 2, "float16.*float32.*float64"),
    ],
)
def test_a_mistake_is_one_clear_message(here, capsys, changes, code, says):
    for name, content in ODD.items():
        if isinstance(content, str):
            (here / name).write_text(content)
        else:
            np.save(name, content)
    np.save("object.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.savez("object.npz", np.array([{"a": 1}]))
    torch.save({"logits": Record}, "object.pt")
    assert main(words(**changes)) == code
    error = capsys.readouterr().err
    assert len([line for line in error.splitlines() if ": error: " in line]) == 1
    assert "Traceback" not in error
    assert re.search(says, error), error
    assert not (here / "o").exists()


def test_rows_of_any_length_are_read_from_csv(here):
    header = ",".join(f"a class with a name of some length: {k}" for k in range(30_000))
    assert len(header) > 2**20, "longer than a block"
    rows = [",".join("1" if k == row else "0" for k in range(30_000)) for row in range(2)]
    (here / "wide.csv").write_text("\n".join([header, *rows]) + "\n")
    (here / "two.txt").write_text("0\n1\n")
    record = imported(logits="wide.csv", labels="two.txt")
    assert record.logits.shape == (2, 30_000)
    assert record.logits.argmax(dim=1).tolist() == [0, 1]
    (here / "long.csv").write_text(f"id\n{'x' * 3_000_000}\ny\n")
    record = imported("--overwrite", logits="wide.csv", labels="two.txt", ids="long.csv")
    assert [len(one) for one in record.ids] == [3_000_000, 1]


def test_a_csv_of_too_many_columns_is_refused_by_their_number(here, capsys):
    (here / "wide.csv").write_text(",".join(map(str, range(1_000_000))) + "\n")
    assert main(words(logits="wide.csv")) == 1
    assert "has 1,000,000 columns, and a .csv is read up to 100,000" in capsys.readouterr().err
