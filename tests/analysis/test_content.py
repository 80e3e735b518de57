"""Samples that are recognised by their recorded logits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_cascade.analysis.content import Contents
from lit_cascade.errors import CascadeError
from lit_cascade.records import Record

N = 1000


def made(n=N, seed=0, classes=5, dtype=torch.float32, names=("small", "large")):
    generator = torch.Generator().manual_seed(seed)
    return [
        Record.from_arrays(
            name, (4 * torch.randn(n, classes, generator=generator)).to(dtype), flops=1
        )
        for name in names
    ]


def shaken(records, noise, dtype=torch.float32, seed=9):
    """The records of a model that ran again, with other last digits."""
    generator = torch.Generator().manual_seed(seed)
    return [
        replace(one, logits=(one.logits.float() + noise * torch.randn(one.logits.shape,
                                                                      generator=generator)).to(dtype))
        for one in records
    ]  # fmt: skip


def rows_of(records, rows):
    return [one.rows(rows) for one in records]


def repeated(records, rows):
    return [Record.from_arrays(one.name, one.logits[rows], flops=1) for one in records]


@pytest.mark.parametrize("classes", [2, 5, 1000])
def test_exactly_the_same_samples_are_found_wherever_they_are(classes):
    records = made(classes=classes)
    content = Contents.of(records, torch.arange(100, 400))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    found, beyond = content.find(rows_of(records, order))
    assert torch.equal(found, (order >= 100) & (order < 400))
    assert beyond


@pytest.mark.parametrize(("noise", "least"), [(1e-6, 0.999), (1e-4, 0.98), (1e-3, 0.85)])
@pytest.mark.parametrize("dtypes", [("float16", "float32"), ("float32", "float16")])
def test_a_model_that_runs_again_gives_the_same_content(noise, least, dtypes):
    before, after = (getattr(torch, one) for one in dtypes)
    records = made(dtype=before)
    again, beyond = Contents.of(records).find(shaken(records, noise, after))
    assert float(again.double().mean()) >= least
    assert beyond
    other, beyond = Contents.of(records).find(made(seed=5, dtype=after))
    assert int(other.sum()) <= 1
    assert not beyond


def test_two_classes_in_few_digits_are_told_apart_by_more_of_them():
    generator = torch.Generator().manual_seed(0)
    margin = torch.rand(N, generator=generator)
    records = [Record.from_arrays("a", torch.stack([margin, -margin], dim=1), flops=1)]
    content = Contents.of(records)
    assert (content.bits, content.repeated) == (24, 0)
    assert content.find(rows_of(records, range(9)))[0].all()
    rounded = [replace(records[0], logits=records[0].logits.half())]
    assert content.find(rounded) is None  # 24 bits are not in float16
    coarse = Contents.of(rounded)
    assert coarse.bits == 11
    assert coarse.repeated > 0


def test_duplicates_count_as_the_same_sample_and_not_as_an_overlap():
    records = made()
    twice = repeated(records, [0, 0, *range(500)])
    content = Contents.of(twice)
    assert content.repeated == 3
    others = repeated(records, [0] * 40 + list(range(500, 900)))
    found, beyond = content.find(others)
    assert found.tolist() == [True] * 40 + [False] * 400
    assert not beyond  # one content, however often


def test_logits_that_do_not_tell_samples_apart_are_no_evidence():
    constant = [Record.from_arrays("a", torch.ones(N, 3), flops=1)]
    content = Contents.of(constant)
    assert (content.repeated, len(content.hashes)) == (N, 1)
    assert content.find(constant) is None
    few = [Record.from_arrays("a", score=torch.arange(N) % 7, correct=[1] * N, flops=1)]
    assert Contents.of(few).find(few) is None


def test_scores_without_logits_are_compared_too():
    score = torch.rand(N, generator=torch.Generator().manual_seed(0))
    records = [Record.from_arrays("a", score=score, correct=[1] * N, flops=1)]
    found, beyond = Contents.of(records, torch.arange(N // 2)).find(records)
    assert beyond
    assert int(found[: N // 2].sum()) == N // 2
    assert int(found[N // 2 :].sum()) <= 5


def test_stages_are_found_by_name():
    records = made(names=("small", "large"))
    content = Contents.of(records)
    assert content.find([*made(names=("other",)), *records[::-1]])[0].all()
    assert content.find(records[:1]) is None


def test_a_file_holds_little_and_gives_it_back():
    records = made(50_000, classes=2)
    content = Contents.of(records)
    plain = content.to_plain()
    assert len(plain["hashes"]) < 160_000
    read = Contents.from_plain(plain, content.n)
    assert np.array_equal(read.hashes, content.hashes)
    assert read.hashes.dtype == content.hashes.dtype == np.uint32
    assert (read.stages, read.bits, read.repeated) == (
        content.stages, content.bits, content.repeated,
    )  # fmt: skip
    assert read.find(records)[0].all()


@pytest.mark.parametrize(
    "damage",
    [{"hashes": "no base 64!"}, {"hashes": "AAAA"}, {"bits": 5}, {"bits": "x"}, {"repeated": None},
     {"stages": 3}],
)  # fmt: skip
def test_damaged_hashes_are_one_clear_message(damage):
    plain = Contents.of(made(20)).to_plain() | damage
    with pytest.raises(CascadeError, match=r"hashes of the samples .* are damaged"):
        Contents.from_plain(plain, 20)


def test_predictions_tell_samples_apart_exactly():
    """Numbers of neighbouring classes are other answers, however coarse the precision."""
    answers = torch.arange(900)
    records = [
        Record.from_arrays(name, prediction=some, classes=map(str, range(900)), flops=1)
        for name, some in (("small", answers), ("large", answers.flip(0)))
    ]
    found = Contents.of(records)
    assert found.repeated == 0
    assert len(found.hashes) == 900
    halves = [[record.rows(rows) for record in records] for rows in answers.split(450)]
    assert not Contents.of(halves[0]).find(halves[1])[0].any()
    assert Contents.of(halves[0]).find(records)[0].tolist() == [True] * 450 + [False] * 450
