import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records import FORMAT, Record, check_alike


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
    for part in ("logits", "labels", "flops"):
        a, b = getattr(one, part), getattr(other, part)
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    if isinstance(one.ids, torch.Tensor):
        assert torch.equal(one.ids, other.ids)
    else:
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


def test_a_record_with_one_empty_id_comes_back(tmp_path):
    one = record(n=1, ids=("",))
    one.save(tmp_path / "net.safetensors")
    assert_same(one, Record.load(tmp_path / "net.safetensors"))


def test_logits_in_any_memory_layout_come_back(tmp_path):
    one = record(logits=torch.randn(3, 6).t())
    one.save(tmp_path / "net.safetensors")
    assert torch.equal(Record.load(tmp_path / "net.safetensors").logits, one.logits)


def test_the_same_record_is_the_same_bytes(tmp_path):
    one, contents = record(data={"a": 1, "b": 2}), set()
    for k in range(8):
        one.save(tmp_path / f"{k}.safetensors")
        contents.add((tmp_path / f"{k}.safetensors").read_bytes())
    assert len(contents) == 1


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
    assert (one.flops.tolist(), one.ids.tolist(), one.classes) == ([7.0, 7.0], [0, 1], ("0", "1"))
    half = Record.from_arrays(
        "net", np.zeros((2, 2), np.float16), [0, 1], flops=[1, 2], ids=["a", "b"]
    )
    assert (half.logits.dtype, half.ids, half.flops.tolist()) == (torch.float16, ("a", "b"), [1, 2])
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
        ({"ids": torch.tensor([0, 1, 2, 3, 4, 4])}, "6 samples need as many distinct ids, got 6"),
        ({"ids": ("a", "b", "c", "d", "e", "a")}, "with 5 distinct"),
        ({"ids": torch.arange(5)}, "distinct ids, got 5"),
        ({"ids": torch.arange(6.0)}, "ids"),
        ({"ids": torch.arange(6)[:, None]}, "ids"),
        ({"flops": -torch.ones(6).double()}, "flops must be 6 finite numbers of at least 0"),
        ({"flops": torch.full((6,), math.nan).double()}, "flops must be"),
        ({"flops": torch.full((6,), math.inf).double()}, "flops must be"),
        ({"flops": torch.ones(5).double()}, "flops must be"),
        ({"flops": torch.ones(6, 1).double()}, "flops must be"),
        ({"classes": ("a", "b")}, "3 logits per sample need as many distinct class names"),
        ({"classes": ("a", "b", "a")}, "distinct class names"),
    ],
)
def test_parts_that_do_not_fit_are_one_clear_error(changes, message):
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
def test_unlike_records_are_told_apart_by_their_first_difference(other, message):
    with pytest.raises(CascadeError, match=message):
        check_alike([record(), record(name="same"), other])


def test_one_record_or_one_name_twice_is_no_cascade():
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


def test_damaged_files_are_refused(saved):
    whole = saved.read_bytes()
    cuts = [0, 1, 7, 8, 9, 50, len(whole) // 2, len(whole) - 9, len(whole) - 1]
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


def test_a_pickle_is_never_read(tmp_path):
    path = tmp_path / "net.safetensors"
    torch.save({"logits": torch.zeros(2, 2)}, path)
    with pytest.raises(CascadeError, match="cannot be read as a record"):
        Record.load(path)


def test_a_foreign_file_is_named_as_such(tmp_path):
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


def test_samples_that_are_not_those_of_the_fingerprint_are_refused(saved):
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
