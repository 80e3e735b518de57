"""Arrays of other frameworks, as parts of records."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from lit_cascade.errors import CascadeError
from lit_cascade.records import arrays


@pytest.mark.parametrize("elements", [1, 7, 10**6])
def test_checks_go_by_blocks_and_name_the_row_of_the_whole(tmp_path, monkeypatch, elements):
    monkeypatch.setattr(arrays, "_BLOCK_ELEMENTS", elements)
    numbers = np.random.default_rng(0).dirichlet([1, 1, 1], 20)
    numbers[3] = [0, 0, 1]
    file = tmp_path / "p.npy"
    np.save(file, numbers)
    logits, _, notes = arrays.probabilities_from(str(file))
    wanted = torch.from_numpy(numbers).clamp_min(arrays._LOG_FLOOR).log().float()
    assert torch.equal(logits, wanted)
    assert notes[0].startswith("Note: 2 probabilities are 0")
    numbers[5] /= 2  # a sum is looked at last, wherever it is
    np.save(file, numbers)
    with pytest.raises(CascadeError, match=r"sum to 1, got 0\.5 in row 5"):
        arrays.probabilities_from(str(file))
    numbers[17, 1] = -0.5
    np.save(file, numbers)
    with pytest.raises(CascadeError, match=r"got -0.5 in row 17, column 1"):
        arrays.probabilities_from(str(file))
    numbers[[11, 13], 0] = np.nan
    np.save(file, numbers)
    with pytest.raises(CascadeError, match="in 2 of 20 rows, first in row 11"):
        arrays.logits_from(str(file))


def eight_bit_probabilities(row):
    """What the bytes of an 8-bit model say, by plain arithmetic."""
    total, zeros = sum(row), row.count(0)
    if total > 256:
        return [number / total for number in row]
    return [number / 256 if number else (256 - total) / 256 / zeros for number in row]


@pytest.mark.parametrize("elements", [1, 700, 10**6])
def test_probabilities_of_eight_bits_keep_their_confidences(tmp_path, monkeypatch, elements):
    monkeypatch.setattr(arrays, "_BLOCK_ELEMENTS", elements)
    random = np.random.default_rng(0)
    exact = random.dirichlet(np.full(600, 0.01), 40)
    exact[7] = np.full(600, 1 / 600)
    exact[8] = np.eye(600)[3]
    rounded = np.minimum((256 * exact).round(), 255).astype(np.uint8)
    rounded[7] = 0  # each less than 1/512
    rounded[9, :4], rounded[9, 4:] = (129, 127, 1, 0), 0  # rounded up: 257 in all
    file = tmp_path / "p.npy"
    np.save(file, rounded)
    logits, _, notes = arrays.probabilities_from(str(file))
    assert notes[0] == "Note: whole numbers of 8 bits are probabilities in steps of 1/256."
    wanted = torch.tensor([eight_bit_probabilities(row) for row in rounded.tolist()])
    torch.testing.assert_close(logits.softmax(dim=1), wanted, rtol=1e-5, atol=1e-30)
    assert (logits.argmax(dim=1).numpy() == rounded.argmax(axis=1)).all()
    rounded[11, :4] = 100  # no rounding makes 400 of 256
    rounded[12] = random.integers(0, 256, 600)
    np.save(file, rounded)
    with pytest.raises(CascadeError, match=r"rows that sum to 1, got 2\.5625 in row 11"):
        arrays.probabilities_from(str(file))


def test_classes_may_be_a_list_that_is_known_by_its_name():
    names = arrays.classes_from("imagenet-1k", 1000)
    assert names[:2] == ("n01440764", "n01443537")
    with pytest.raises(CascadeError, match="1,000 names for logits of 10 classes"):
        arrays.classes_from("imagenet-1k", 10)


def test_an_array_on_disk_is_mapped_and_stays_as_it_is(tmp_path):
    file = tmp_path / "logits.npy"
    np.save(file, np.ones((4, 3), np.float32))
    logits, _, _ = arrays.logits_from(str(file))
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(file) in maps.read_text()
    logits += 1
    assert (np.load(file) == 1).all()


def test_columns_of_several_types_become_one_matrix(tmp_path):
    columns = {"a": [1, 2], "b": [0.5, 0.25], "c": [True, False]}
    for file in (tmp_path / "m.parquet", tmp_path / "m.csv"):
        table = pa.table(columns)
        (pa.csv.write_csv if file.suffix == ".csv" else pa.parquet.write_table)(table, str(file))
        logits, names, _ = arrays.logits_from(str(file))
        assert names == ("a", "b", "c")
        assert logits.tolist() == [[1, 0.5, 1], [2, 0.25, 0]]


def test_a_table_without_columns_is_refused(tmp_path):
    pa.parquet.write_table(pa.table({}), str(tmp_path / "m.parquet"))
    with pytest.raises(CascadeError, match="it has no columns"):
        arrays.logits_from(str(tmp_path / "m.parquet"))
