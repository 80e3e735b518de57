"""Tensors that lie in files: the same numbers before and after their pages are given back."""

import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lit_cascade.core.scores import answers_of, score_and_answer
from lit_cascade.utilities import mapped
from lit_cascade.utilities.mapped import mapped_tensor, row_slices


@pytest.fixture(params=[torch.float16, torch.float32])
def pair(request, tmp_path):
    """A matrix of several pages, and the same in a file after other tensors."""
    matrix = torch.randn(3000, 70, generator=torch.Generator().manual_seed(0)).to(request.param)
    path = tmp_path / "record.safetensors"
    save_file({"ids": torch.arange(5), "logits": matrix, "z": torch.ones(3)}, path)
    return matrix, mapped_tensor(path, "logits", request.param)


def resident(tensor):
    """KiB of a mapped tensor's pages that the process holds, as Linux tells."""
    address, inside = tensor.data_ptr(), False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, last = line.split()[0].partition("-")
        if last and not first.endswith(":"):
            inside = int(first, 16) <= address < int(last, 16)
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1])
    raise AssertionError


def test_blocks_are_the_rows_in_any_order(pair):
    matrix, there = pair
    for _ in range(2):  # the second time after all pages were given back
        assert torch.equal(torch.cat([block.clone() for block in row_slices(there, 100)]), matrix)
    assert torch.equal(there, matrix)
    rows = torch.randperm(3000)[:1234]
    assert torch.equal(torch.cat(list(row_slices(there, 100, rows))), matrix[rows])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no madvise here")
@pytest.mark.parametrize("rows", [None, torch.arange(3000)])
def test_pages_are_given_back_after_each_block(pair, rows):
    matrix, there = pair
    there.sum()
    whole = resident(there)
    total = sum(float(block.double().sum()) for block in row_slices(there, 500, rows))
    assert total == pytest.approx(float(matrix.double().sum()))
    assert whole >= 400
    assert resident(there) <= 64


def test_what_was_written_to_a_mapped_tensor_stays(pair):
    matrix, there = pair
    there[1000] = 5
    list(row_slices(there, 100))
    assert bool((there[1000] == 5).all())
    assert torch.equal(there[:1000], matrix[:1000])


def test_a_tensor_in_memory_is_left_alone():
    matrix = torch.randn(3000, 7)
    before = matrix.clone()
    list(row_slices(matrix, 100))
    assert torch.equal(matrix, before)


def test_a_freed_tensor_leaves_no_entry(pair):
    matrix, there = pair
    known = len(mapped._FILES)
    view = there[5:]
    del there, pair
    gc.collect()
    assert torch.equal(view, matrix[5:])  # a view keeps the file
    assert len(mapped._FILES) <= known


def test_systems_without_the_call_read_the_same(pair, monkeypatch):
    matrix, there = pair
    address = there.untyped_storage().data_ptr()
    plain = _Plain()
    monkeypatch.setitem(mapped._FILES, address, plain)
    assert torch.equal(torch.cat(list(row_slices(there, 100))), matrix)


class _Plain:
    """A mapping as Python has it on Windows: it cannot advise."""

    def __len__(self):
        return 2**20


def test_scores_of_a_mapped_matrix_are_those_of_one_in_memory(pair):
    matrix, there = pair
    for one, other in zip(score_and_answer(there), score_and_answer(matrix), strict=True):
        assert torch.equal(one, other)
    rows = torch.arange(0, 3000, 3)
    assert torch.equal(answers_of(there)[rows], answers_of(matrix[rows]))
