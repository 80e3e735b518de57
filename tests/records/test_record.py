import json
import math
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_cascade.analysis.curve import curve as curve_of
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records.record import FORMAT, Record, check_alike


def record(n=6, name="net", **changes):
    torch.manual_seed(1)
    parts = {
        "name": name,
        "logits": torch.randn(n, 3),
        "labels": torch.arange(n) % 3,
        "ids": torch.arange(n) * 7,
        "costs": {"flops": torch.rand(n, dtype=torch.float64) * 1e9},
        "classes": ("cat", "dog", "mañana 猫"),
    }
    return Record(**{**parts, **changes})


def assert_same(one, other):
    assert one.name == other.name
    assert list(one.costs) == list(other.costs)
    pairs = [(one.costs[unit], other.costs[unit]) for unit in one.costs]
    pairs += [
        (getattr(one, part), getattr(other, part))
        for part in ("logits", "labels", "score", "correct")
    ]
    for a, b in pairs:
        assert (a is None) == (b is None)
        assert a is None or (a.dtype == b.dtype and torch.equal(a, b))
    assert one.ids == other.ids
    for part in ("classes", "parameters", "data", "model", "info"):
        assert getattr(one, part) == getattr(other, part)


IDS = [
    ("a", "b", "c", "d", "e", "f"),
    ("ä/1.png", "猫", "🐈", "", "line\nbreak", "x" * 500),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("ids", [torch.arange(6) * -(2**40), *IDS])
def test_a_record_comes_back_as_it_was_saved(tmp_path, dtype, ids):
    one = record(
        ids=ids,
        parameters=12_345,
        data={"name": "digits", "split": "test", "sizes": [1, 2], "nested": {"ü": None}},
        model={"lr": 0.1, "path": "a/b", "layers": [{"width": 3}]},
        info={"versions": {"torch": "2"}},
    )
    one = replace(one, logits=one.logits.to(dtype))
    one.save(tmp_path / "new" / "net.safetensors")
    assert_same(one, Record.load(tmp_path / "new" / "net.safetensors"))
    assert (
        one.samples.fingerprint == Record.load(tmp_path / "new/net.safetensors").samples.fingerprint
    )


def test_whole_numbers_take_the_narrowest_type_of_the_file(tmp_path):
    for ids, dtype in [
        (torch.arange(6), torch.int8),
        (torch.arange(6) * 7000, torch.int32),
        (torch.arange(6) * -(2**40), torch.int64),
    ]:
        record(ids=ids).save(tmp_path / "net.safetensors")
        stored = load_file(tmp_path / "net.safetensors")
        assert (stored["labels"].dtype, stored["ids"].dtype) == (torch.int8, dtype)
        loaded = Record.load(tmp_path / "net.safetensors")
        assert_same(record(ids=ids), loaded)
        assert loaded.to_bytes() == record(ids=ids).to_bytes()


def test_a_record_with_one_empty_id_comes_back(tmp_path):
    one = record(n=1, ids=("",))
    one.save(tmp_path / "net.safetensors")
    assert_same(one, Record.load(tmp_path / "net.safetensors"))


def test_logits_in_any_memory_layout_come_back(tmp_path):
    one = record(logits=torch.randn(3, 6).t())
    one.save(tmp_path / "net.safetensors")
    assert torch.equal(Record.load(tmp_path / "net.safetensors").logits, one.logits)


def test_equal_records_are_equal_bytes(tmp_path):
    one = record(data={"a": 1, "b": 2})
    one.save(tmp_path / "net.safetensors")
    contents = {record(data={"a": 1, "b": 2}).to_bytes() for _ in range(8)}
    assert contents == {(tmp_path / "net.safetensors").read_bytes()}
    assert len({scored(costs=COSTS["several"]).to_bytes() for _ in range(5)}) == 1


def test_saving_leaves_nothing_else_and_replaces_the_old(tmp_path):
    record().save(tmp_path / "net.safetensors")
    record(n=4).save(str(tmp_path / "net.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
    assert len(Record.load(tmp_path / "net.safetensors")) == 4
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "net.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_from_arrays_takes_any_framework():
    one = Record.from_arrays("net", np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1]), flops=7)
    assert (one.logits.dtype, one.labels.dtype) == (torch.float32, torch.int64)
    assert (one.cost().tolist(), one.ids.tolist(), one.classes) == ([7.0, 7.0], [0, 1], ("0", "1"))
    half = Record.from_arrays(
        "net", np.zeros((2, 2), np.float16), [0, 1], flops=[1, 2], ids=["a", "b"]
    )
    assert (half.logits.dtype, half.ids) == (torch.float16, ("a", "b"))
    assert half.cost().tolist() == [1, 2]
    named = Record.from_arrays(
        "net", [[1, 2]], [1], flops=1, ids=[9], classes=["x", "y"], parameters=3
    )
    assert (named.ids.tolist(), named.classes, named.parameters) == ([9], ("x", "y"), 3)


@pytest.mark.parametrize("labels", [[0.7, 1.9], [math.nan, 1.0]])
def test_labels_with_fractions_are_refused(labels):
    with pytest.raises(CascadeError, match="labels"):
        Record.from_arrays("net", [[2.0, 0.0], [0.0, 1.0]], labels, flops=1)


def test_ids_with_fractions_are_refused():
    with pytest.raises(CascadeError, match="ids"):
        Record.from_arrays("net", [[2.0, 0.0], [0.0, 1.0]], [0, 1], flops=1, ids=[0.2, 1.7])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.full((6, 3), math.nan)}, "NaN or infinite logits in 6 of 6 .* row 0"),
        ({"logits": torch.full((6, 3), math.inf)}, "NaN or infinite logits"),
        ({"logits": torch.zeros(6, 3).double()}, "float16 or float32, got torch.float64"),
        ({"logits": torch.zeros(6, 3).long()}, "float16 or float32, got torch.int64"),
        ({"logits": torch.zeros(6)}, "shape"),
        ({"logits": torch.zeros(6, 1)}, "at least 2 classes, got 1"),
        ({"logits": torch.zeros(0, 3)}, "no samples"),
        ({"labels": torch.tensor([0, 1, 3, 0, 1, 2])}, "label 3 at row 2 is outside the 3 classes"),
        ({"labels": torch.tensor([0, 1, 2, 0, -1, 2])}, "label -1 at row 4 .* unlabelled"),
        ({"labels": torch.zeros(6)}, "labels must be 6 integers"),
        ({"labels": torch.zeros(5).long()}, "labels must be 6 integers"),
        ({"labels": torch.zeros(6, 1).long()}, "labels must be 6 integers"),
        ({"ids": torch.tensor([0, 1, 2, 3, 4, 4])}, r"one distinct id per sample \(6\), got 6"),
        ({"ids": ("a", "b", "c", "d", "e", "a")}, "with 5 distinct"),
        ({"ids": torch.arange(5)}, r"distinct id per sample \(6\), got 5"),
        ({"ids": torch.arange(6.0)}, "ids"),
        ({"ids": torch.arange(6)[:, None]}, "ids"),
        (
            {"costs": {"flops": -torch.ones(6).double()}},
            "flops must be 6 finite numbers of at least 0",
        ),
        ({"costs": {"flops": torch.full((6,), math.nan).double()}}, "flops must be"),
        ({"costs": {"flops": torch.full((6,), math.inf).double()}}, "flops must be"),
        ({"costs": {"flops": torch.ones(5).double()}}, "flops must be"),
        ({"costs": {"flops": torch.ones(6, 1).double()}}, "flops must be"),
        ({"classes": ("a", "b")}, "3 logits per sample need as many distinct class names"),
        ({"classes": ("a", "b", "a")}, "distinct class names"),
    ],
)
def test_logits_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(CascadeError, match=message) as caught:
        record(**changes)
    assert str(caught.value).startswith("record 'net': ")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            record(name="big", ids=torch.tensor([0, 7, 15, 21, 28, 35])),
            "records 'net' and 'big' differ in ids, first at position 2: 14 against 15",
        ),
        (
            record(name="big", ids=("a", "b", "c", "d", "e", "f")),
            "records 'net' and 'big' differ in ids, first at position 0: 0 against 'a'",
        ),
        (record(n=4, name="big"), "records 'net' and 'big' differ in ids, 6 against 4"),
        (
            record(name="big", labels=torch.tensor([0, 1, 2, 0, 2, 2])),
            "records 'net' and 'big' differ in labels, first at position 4: 1 against 2",
        ),
        (
            record(name="big", classes=("cat", "mañana 猫", "dog")),
            "differ in class order, first at position 1: 'dog' against 'mañana 猫'",
        ),
    ],
)
def test_records_of_other_samples_are_refused_with_the_first_difference(other, message):
    with pytest.raises(CascadeError, match=message):
        check_alike([record(), record(name="same"), other])


def test_a_cascade_needs_two_records_of_different_names():
    with pytest.raises(UsageError, match="at least 2 stages, got 1"):
        check_alike([record()])
    with pytest.raises(UsageError, match="the name 'net' occurs twice"):
        check_alike([record(), record(name="other"), record()])
    check_alike([record(), record(name="other")])


@pytest.fixture
def saved(tmp_path):
    record().save(tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def header_of(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def rewrite(path, tensors=None, **header):
    """Save the file again with some tensors and header entries replaced, or removed by None."""
    parts = {**load_file(path), **(tensors or {})}
    kept = {key: value for key, value in {**header_of(path), **header}.items() if value is not None}
    save_file(
        {key: value for key, value in parts.items() if value is not None}, path, metadata=kept
    )


@pytest.mark.parametrize("missing", ["nothing.safetensors", ".", "no/such/folder.safetensors"])
def test_a_missing_file_is_a_usage_error(tmp_path, missing):
    with pytest.raises(UsageError, match="records: there is no file"):
        Record.load(tmp_path / missing)


@pytest.mark.parametrize("kind", ["saved", "saved_scores"])
def test_damaged_files_are_refused(kind, request):
    saved = request.getfixturevalue(kind)
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    cuts = {*range(10), 50, header - 1, header, header + 1, *range(header, len(whole), 7)}
    damaged = [whole[:cut] for cut in cuts]
    damaged += [(2**60).to_bytes(8, "little") + whole[8:], bytes(len(whole)), whole + b"x"]
    damaged += [b"\xff" * 100, whole[:8] + b"\xff" * 20 + whole[28:]]
    for data in damaged:
        saved.write_bytes(data)
        with pytest.raises(CascadeError, match=r"records: .* cannot be read as a record"):
            Record.load(saved)


def test_every_flipped_byte_of_the_header_is_refused_or_harmless(saved):
    whole = saved.read_bytes()
    for position in range(8 + int.from_bytes(whole[:8], "little")):
        saved.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            Record.load(saved)
        except CascadeError as error:
            assert "record" in str(error)  # noqa: PT017 - reading it without complaint is fine too


def test_a_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CascadeError, match=f"is not a record: .* None, expected '{FORMAT}'"):
        Record.load(path)
    save_file({"weight": torch.zeros(2, 2)}, path, metadata={"format": "pt"})
    with pytest.raises(CascadeError, match="its header says format 'pt'"):
        Record.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", "5"),
        ("classes", "null"),
        ("classes", '"abc"'),
        ("classes", '{"a": 0, "b": 1, "c": 2}'),
        ("classes", "[0, 1, 2]"),
        ("classes", "[[1], [2], [3]]"),
        ("classes", "["),
        ("classes", "[" * 100_000),
        ("classes", None),
        ("parameters", "many"),
        ("parameters", "1.5"),
        ("parameters", None),
        ("name", None),
        ("data", "5"),
        ("data", "[1]"),
        ("data", "{"),
        ("model", None),
        ("info", "null"),
        ("format", "lit-cascade-record/2"),
    ],
)
def test_a_corrupted_header_entry_is_refused(saved, key, value):
    rewrite(saved, **{key: value})
    with pytest.raises(CascadeError):
        Record.load(saved)


@pytest.mark.parametrize(
    "tensors",
    [
        {"flops": None},
        {"logits": None},
        {"labels": None},
        {"ids": None},
        {"logits": torch.zeros(6, 3, dtype=torch.int64)},
        {"logits": torch.zeros(6, 3, dtype=torch.bfloat16)},
        {"logits": torch.tensor(1.0)},
        {"labels": torch.zeros(6)},
        {"labels": torch.tensor(0)},
        {"labels": torch.zeros(6, dtype=torch.bool)},
        {"labels": torch.zeros(6, dtype=torch.complex64)},
        {"ids": torch.arange(6.0)},
        {"ids": torch.arange(6)[:, None].clone()},
        {"ids": torch.tensor(3)},
        {"ids": torch.zeros(6, dtype=torch.complex64)},
        {"flops": torch.ones(6, dtype=torch.complex64)},
        {"flops": torch.tensor(1.0)},
        {"ids": None, "ids_utf8": torch.zeros(6, dtype=torch.uint8)},
        {"ids": None, "ids_utf8": torch.zeros(6).bfloat16(), "ids_length": torch.ones(6).long()},
        {"ids": None, "ids_utf8": torch.arange(6).byte(), "ids_length": torch.ones(6)},
        {"ids": None, "ids_utf8": torch.arange(6).byte(), "ids_length": torch.ones(6, 1).long()},
        {"ids": None, "ids_utf8": torch.arange(6).byte(), "ids_length": torch.tensor(6)},
        {
            "ids": None,
            "ids_utf8": torch.full((6,), 255, dtype=torch.uint8),
            "ids_length": torch.ones(6).long(),
        },
    ],
    ids=lambda tensors: "-".join(f"{key}_{getattr(t, 'dtype', t)}" for key, t in tensors.items()),
)
def test_a_corrupted_tensor_is_refused(saved, tensors):
    rewrite(saved, tensors)
    with pytest.raises(CascadeError):
        Record.load(saved)


def test_another_fingerprint_is_refused(saved):
    rewrite(saved, {"labels": torch.tensor([2, 2, 2, 2, 2, 2])})
    with pytest.raises(CascadeError):
        Record.load(saved)


@pytest.mark.parametrize("place", ["file/net.safetensors", "file/deep/net.safetensors", "folder"])
def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path, place):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        record().save(tmp_path / place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, error):
    def broken(_):
        raise error

    monkeypatch.setattr(os, "fsync", broken)
    expected = CascadeError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        record().save(tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file(saved, monkeypatch):
    def broken(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(CascadeError, match="No space left on device"):
        record(n=4).save(saved)
    monkeypatch.undo()
    assert_same(Record.load(saved), record())


def test_the_fingerprint_changes_with_any_part():
    prints = {
        one.samples.fingerprint
        for one in (
            record(),
            record(ids=torch.arange(6)),
            record(ids=("a", "b", "c", "d", "e", "f")),
            record(labels=torch.zeros(6).long()),
            record(classes=("a", "b", "c")),
        )
    }
    assert len(prints) == 5
    assert record(name="other", logits=torch.zeros(6, 3)).samples.fingerprint in prints


def scored(n=6, name="api", **changes):
    """A record without logits."""
    torch.manual_seed(2)
    parts = {
        "name": name,
        "ids": torch.arange(n) * 7,
        "costs": {"usd": torch.full((n,), 0.002, dtype=torch.float64)},
        "score": torch.randn(n) * 3,
        "correct": torch.arange(n) % 3 == 0,
    }
    return Record(**{**parts, **changes})


COSTS = {
    "constant": {"usd": torch.full((6,), 0.1, dtype=torch.float64)},
    "varying": {"flops": torch.arange(6).double()},
    "several": {
        "latency_s": torch.arange(6).double() / 3,
        "flops": torch.full((6,), 1e12 / 3, dtype=torch.float64),
        "joules": torch.zeros(6, dtype=torch.float64),
        "größe": torch.arange(6).double() ** 9,
    },
}
LABELLED = {"labels": torch.arange(6) % 2, "classes": ("no", "yes")}


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS)
@pytest.mark.parametrize("more", [{}, LABELLED, {"classes": ("no", "yes")}])
@pytest.mark.parametrize("ids", [torch.arange(6), ("a", "b", "c", "d", "e", "ü")])
def test_scores_come_back_as_they_were_saved(tmp_path, costs, more, ids):
    one = scored(costs=costs, ids=ids, **more)
    one.save(tmp_path / "api.safetensors")
    again = Record.load(tmp_path / "api.safetensors")
    assert_same(one, again)
    assert again.logits is None
    assert len(again) == 6
    assert again.to_bytes() == one.to_bytes()


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS)
def test_logits_with_scores_and_costs_come_back(tmp_path, costs):
    both = {"score": torch.rand(6), "correct": torch.ones(6).bool()}
    one = record(costs=costs, **both)
    one.save(tmp_path / "net.safetensors")
    assert_same(one, Record.load(tmp_path / "net.safetensors"))


def test_a_constant_cost_is_one_number_in_the_header(tmp_path):
    scored(costs=COSTS["several"]).save(tmp_path / "api.safetensors")
    costs = json.loads(header_of(tmp_path / "api.safetensors")["costs"])
    assert costs == {"latency_s": None, "flops": 1e12 / 3, "joules": 0.0, "größe": None}
    stored = load_file(tmp_path / "api.safetensors")
    assert set(stored) == {"ids", "score", "correct", "latency_s", "größe"}


def test_scores_of_minus_infinity_come_back(tmp_path):
    one = scored(score=torch.tensor([-math.inf, -1e30, 0.0, 1e-40, 1.0, 3e38]))
    one.save(tmp_path / "api.safetensors")
    assert_same(one, Record.load(tmp_path / "api.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": None}, "without logits it needs predictions, or both score and correct"),
        ({"correct": None}, "without logits it needs predictions, or both score and correct"),
        ({"score": torch.zeros(0), "correct": torch.zeros(0).bool()}, "no samples"),
        ({"score": torch.tensor(0.5)}, "no samples"),
        ({"score": torch.zeros(6).double()}, "score must be 6 values.*got torch.float64"),
        ({"score": torch.zeros(6, 1)}, r"score must be 6 values.*of shape \(6, 1\)"),
        ({"score": torch.full((6,), math.nan)}, "score must be 6 values, none of them NaN"),
        ({"score": torch.full((6,), math.inf)}, r"none of them NaN or \+inf"),
        ({"correct": torch.zeros(6)}, "correct must be 6 values.*got torch.float32"),
        ({"correct": torch.zeros(6).long()}, "correct must be 6 values"),
        ({"correct": torch.zeros(5).bool()}, r"correct must be 6 values.*of shape \(5,\)"),
        ({"ids": torch.arange(5)}, r"one distinct id per sample \(6\), got 5"),
        ({"classes": ("a", "a")}, "distinct class names"),
        ({"labels": torch.arange(6), "classes": ("a", "b")}, "label 2 at row 2 is outside"),
        ({"labels": torch.zeros(5).long(), "classes": ("a", "b")}, "labels must be 6 integers"),
        ({"costs": {}}, "needs a cost per sample, such as flops"),
        ({"costs": {"usd": torch.ones(6)}}, "usd must be 6 finite numbers.*got torch.float32"),
        ({"costs": {"usd": torch.ones(5).double()}}, "usd must be 6 finite numbers"),
        ({"costs": {"usd": -torch.ones(6).double()}}, "usd must be 6 finite numbers"),
        ({"costs": {"usd": torch.full((6,), math.nan).double()}}, "usd must be 6 finite numbers"),
        ({"data": [1]}, "data must be a mapping"),
        *(
            ({"costs": {name: torch.ones(6).double()}}, f"'{name}' cannot name a cost")
            for name in ("logits", "labels", "ids", "ids_utf8", "score", "correct", "", "a b",
                         "3d", "latency-s", "__metadata__")
        ),
    ],
)  # fmt: skip
def test_scores_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(CascadeError, match=message) as caught:
        scored(**changes)
    assert str(caught.value).startswith("record 'api': ")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "needs logits, predictions or score, and flops or another cost"),
        (
            {"score": [0.5], "correct": [1]},
            "needs logits, predictions or score, and flops or another cost",
        ),
        (
            {"score": [0.5], "correct": [1], "costs": {}},
            "needs logits, predictions or score, and flops",
        ),
        ({"correct": [1], "flops": 1}, "needs logits, predictions or score"),
        ({"score": [0.5], "flops": 1}, "needs predictions, or both score and correct"),
        ({"score": [0.5], "correct": [2], "flops": 1}, "correct must be 0 or 1"),
        ({"score": [0.5], "correct": [0.5], "flops": 1}, "correct must be whole numbers"),
        ({"score": [0.5], "correct": [math.nan], "flops": 1}, "correct must be whole numbers"),
        ({"score": [0.5, 0.6], "correct": [1], "flops": 1}, "correct must be 2 values"),
        ({"score": 0.5, "correct": 1, "flops": 1}, "no samples"),
        ({"score": [0.5], "correct": [1], "flops": [1, 2]}, "flops must be 1 finite numbers"),
        ({"score": [0.5], "correct": [1], "labels": 3, "flops": 1}, "labels must be 1 integers"),
        ({"score": [0.5], "correct": [1], "labels": [-1], "flops": 1}, "label -1 at row 0"),
        ({"logits": 5.0, "labels": [0], "flops": 1}, "logits must be a floating point tensor"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(CascadeError, match=message) as caught:
        Record.from_arrays("net", **parts)
    assert str(caught.value).startswith("record 'net': ")


def test_logits_without_labels_have_no_correctness(tmp_path):
    record = Record.from_arrays("net", [[2.0, 0.0], [0.0, 1.0]], flops=1)
    record.save(tmp_path / "net.safetensors")
    again = Record.load(tmp_path / "net.safetensors")
    assert again.labels is None
    assert again.classes == ("0", "1")
    with pytest.raises(CascadeError, match="holds no labels, which a temperature needs"):
        again.logits_for("a temperature")
    pair = [record, Record.from_arrays("large", [[2.0, 0.0], [1.0, 0.0]], flops=9)]
    with pytest.raises(CascadeError, match="no labels, so which answers are right is unknown"):
        curve_of(pair)


def test_scores_may_come_from_arrays():
    one = Record.from_arrays(
        "api",
        score=np.array([0.9, 0.1]),
        correct=np.array([True, False]),
        labels=[0, 2],
        flops=7,
        costs={"usd": [0.1, 0.2]},
    )
    assert (one.score.dtype, one.correct.tolist()) == (torch.float32, [True, False])
    assert one.classes == ("0", "1", "2")
    assert {unit: cost.tolist() for unit, cost in one.costs.items()} == {
        "flops": [7.0, 7.0],
        "usd": [0.1, 0.2],
    }
    assert one.cost("usd") is one.costs["usd"]
    bare = Record.from_arrays("api", score=[0.9], correct=[1], flops=1)
    assert (bare.labels, bare.classes, bare.ids.tolist()) == (None, (), [0])


def test_logits_for_a_purpose():
    with pytest.raises(CascadeError, match="'api' holds scores and no logits, which a plot needs"):
        scored().logits_for("a plot")
    logits, labels = record().logits_for("a plot")
    assert torch.equal(logits, record().logits)
    assert torch.equal(labels, record().labels)


@pytest.fixture
def saved_scores(tmp_path):
    scored(costs=COSTS["several"], **LABELLED).save(tmp_path / "api.safetensors")
    return tmp_path / "api.safetensors"


@pytest.mark.parametrize(
    "costs",
    [
        None, "", "{", "5", "[]", "null", '"usd"', "{}", '{"usd": []}', '{"usd": {}}',
        '{"usd": "1"}', '{"usd": true}', '{"usd": null}', '{"usd": NaN}', '{"usd": Infinity}',
        '{"usd": -1}', '{"usd": 1e999}', '{"usd": 1' + "0" * 400 + "}", '{"logits": 1}',
        '{"score": null}', '{"": 1}', '{"a b": 1}', "[" * 100_000,
    ],
    ids=str,
)  # fmt: skip
def test_a_corrupted_table_of_costs_is_refused(saved_scores, costs):
    rewrite(saved_scores, costs=costs)
    with pytest.raises(CascadeError):
        Record.load(saved_scores)


@pytest.mark.parametrize(
    "tensors",
    [
        {"latency_s": None},
        {"latency_s": torch.ones(6)},
        {"latency_s": torch.ones(6).long()},
        {"latency_s": torch.ones(5).double()},
        {"latency_s": torch.tensor(1.0).double()},
        {"latency_s": -torch.ones(6).double()},
        {"latency_s": torch.full((6,), math.nan).double()},
        {"score": None},
        {"score": torch.ones(6).double()},
        {"score": torch.ones(6).half()},
        {"score": torch.ones(5)},
        {"score": torch.ones(6, 1)},
        {"score": torch.tensor(1.0)},
        {"score": torch.full((6,), math.nan)},
        {"score": torch.ones(6, dtype=torch.complex64)},
        {"correct": None},
        {"correct": torch.ones(6)},
        {"correct": torch.ones(6).byte()},
        {"correct": torch.ones(5).bool()},
        {"labels": None},
        {"labels": torch.ones(6)},
        {"ids": torch.tensor(3)},
        {"ids": torch.arange(5)},
        {"ids": None},
    ],
    ids=lambda tensors: "-".join(f"{key}_{getattr(t, 'dtype', t)}" for key, t in tensors.items()),
)
def test_a_corrupted_column_is_refused(saved_scores, tensors):
    rewrite(saved_scores, tensors)
    with pytest.raises(CascadeError):
        Record.load(saved_scores)


def hostile(entries, tail=b""):
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + tail


META = {"format": FORMAT, "name": "x", "classes": "[]", "costs": '{"usd": 1}', "parameters": "0"}
PETABYTES = {"dtype": "F32", "shape": [2**48], "data_offsets": [0, 2**50]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickle.dumps({"score": [1.0]}),
        hostile({"__metadata__": META, "score": PETABYTES}),
        hostile({"__metadata__": META, "score": PETABYTES | {"data_offsets": [0, 8]}}, bytes(8)),
        hostile({"__metadata__": META, "score": PETABYTES | {"shape": [2**62, 2**62]}}),
        hostile({"__metadata__": META, "score": PETABYTES | {"shape": [-1]}}),
        hostile({"__metadata__": META, "score": PETABYTES | {"dtype": "F4096"}}),
        hostile({"__metadata__": META}),
        hostile({"__metadata__": META | {"costs": {"usd": 1}}}),
        hostile([META]),
        (2**50).to_bytes(8, "little") + b"{}",
        (2**63).to_bytes(8, "little") + b"{}",
    ],
)
def test_a_hostile_file_is_refused(tmp_path, content):
    path = tmp_path / "api.safetensors"
    path.write_bytes(content)
    with pytest.raises(CascadeError, match="cannot be read as a record") as caught:
        Record.load(path)
    assert caught.value.exit_code == 1


def test_records_of_scores_and_of_logits_may_be_of_the_same_samples():
    labels, classes = record().labels, record().classes
    check_alike([record(), scored(labels=labels, classes=classes)])
    check_alike([scored(), scored(name="other")])
    with pytest.raises(CascadeError, match="'net' and 'api' differ in class order, 3 against 0"):
        check_alike([record(), scored()])
    with pytest.raises(CascadeError, match="'net' and 'api' differ in labels, 6 against 0"):
        check_alike([record(), scored(classes=classes)])


def test_the_fingerprint_changes_with_missing_labels():
    prints = {scored(**more).samples.fingerprint for more in ({}, LABELLED, {"classes": ("a",)})}
    assert len(prints) == 3


def test_types_of_logits():
    one = record()
    half = one.with_dtype("float16")
    assert torch.equal(half.logits, one.logits.half())
    assert half.with_dtype("float32").logits.dtype == torch.float32
    with pytest.raises(CascadeError, match="up to 65504, and these reach 70000"):
        record(logits=torch.full((6, 3), -7e4)).with_dtype("float16")
    with pytest.raises(CascadeError, match="'api' holds no logits to convert"):
        scored().with_dtype("float32")


@pytest.mark.parametrize(
    "name",
    ["", "  ", "a\nb", "\x1b[31mred", "a\tb", "\x9b0m", "abc\u202egnp.exe", "x" * 1001, 5, None],
)
def test_names_that_cannot_be_shown_are_refused_when_they_are_made_and_when_read(tmp_path, name):
    with pytest.raises(CascadeError, match="record: its name: "):
        record(name=name)
    with pytest.raises(CascadeError, match="class names: "):
        record(classes=("cat", name, "owl"))
    if isinstance(name, str):
        one, path = record(), tmp_path / "net.safetensors"
        object.__setattr__(one, "name", name)  # as another program writes it
        one.save(path)
        with pytest.raises(CascadeError, match="record: its name: "):
            Record.load(path)


@pytest.mark.parametrize("name", ["[bold]x[/bold][/]", "a$b$c", "=1+1", "größer 猫 🐈", "x" * 1000])
def test_names_that_can_be_shown_are_taken(tmp_path, name):
    path = tmp_path / "net.safetensors"
    record(name=name, classes=("cat", name, "owl")).save(path)
    assert Record.load(path).name == Record.load(path).classes[1] == name


@pytest.mark.parametrize("parameters", [-5, 2.5, "7", True, None, 2**63, 10**400])
def test_a_number_of_parameters_is_a_whole_number_of_at_least_0(tmp_path, parameters):
    with pytest.raises(CascadeError, match="parameters must be a whole number of at least 0, got"):
        record(parameters=parameters)
    one, path = record(), tmp_path / "net.safetensors"
    object.__setattr__(one, "parameters", parameters)
    one.save(path)
    if parameters != "7":  # as text in a header it is a number
        with pytest.raises(CascadeError):
            Record.load(path)
    assert record(parameters=np.int64(7)).parameters == 7


def test_a_record_of_a_newer_version_says_so(tmp_path):
    one, path = record(), tmp_path / "net.safetensors"
    path.write_bytes(one.to_bytes().replace(FORMAT.encode(), b"lit-cascade-record/2"))
    with pytest.raises(CascadeError, match=r"written by a newer version.*upgrade lit-cascade"):
        Record.load(path)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("data", "left_out", 5), ("data", "left_out", [["a", "b", "c"]]),
        ("data", "left_out", ["ab"]),
        ("data", "remarks", [1]), ("data", "remarks", {"blurred": "many"}), ("data", "findings", 5),
        ("model", "known_classes", "ten"),
    ],
)  # fmt: skip
def test_details_that_are_read_have_their_types(part, key, value):
    with pytest.raises(CascadeError, match=f"{part}.{key} is malformed"):
        record(**{part: {key: value}})
    assert record(**{part: {key: None if part == "data" else 7, "other": value}})
