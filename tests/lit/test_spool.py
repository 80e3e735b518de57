"""Memory while recording grows neither with the samples nor with the models."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from lit_cascade import CascadeError
from lit_cascade.lit.spool import Columns, Spool
from tests.cli.runs import done, finished


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_recording_takes_no_memory_for_samples_or_models(tmp_path):
    # 40,000 samples of 1,000 classes are 160 MB of logits for each of three models
    run = finished("tests.lit.memory", 40_000, 3, cwd=tmp_path, OMP_NUM_THREADS=1)
    assert float(done(run).stdout) < 80


@pytest.fixture
def spooled(tmp_path):
    """Makes spools that are closed in the end."""
    with ExitStack() as stack:

        def make(parts, dtype="float32"):
            spool = stack.enter_context(Spool(tmp_path, dtype))
            for part in parts:
                spool.add(part)
            return spool

        yield make


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("sizes", [[1], [3, 0, 5], [2, 2, 2, 1]])
def test_rows_come_back_in_any_order(spooled, tmp_path, dtype, sizes, monkeypatch):
    monkeypatch.setattr("lit_cascade.lit.spool._NUMBERS", 14)  # two rows at a time
    parts = [torch.randn(n, 7) for n in sizes]
    whole, spool = torch.cat(parts), spooled(parts, dtype)
    stored = whole.to(getattr(torch, dtype))
    for order in (torch.arange(len(whole)), torch.randperm(len(whole))):
        assert torch.equal(spool.ordered(order, "net"), stored[order])
    assert torch.equal(torch.cat(list(spool.parts())), stored)
    assert len(spool) == len(whole)
    assert not list(tmp_path.iterdir())


def test_rows_are_appended_and_the_largest_is_known(spooled):
    one, other = torch.randn(3, 2), torch.randn(4, 2)
    spool = spooled([one])
    spool.add(other)
    assert torch.equal(spool.ordered(torch.arange(7), "net"), torch.cat([one, other]))
    assert spool.largest == float(torch.cat([one, other]).abs().max())


def test_what_float16_cannot_hold_is_an_error_and_nan_is_left_to_others(spooled):
    spool = spooled([torch.tensor([[1.0, 70000.0]])], "float16")
    with pytest.raises(CascadeError, match=r"'net': float16 holds logits up to 65504.* 70000"):
        spool.ordered(torch.arange(1), "net")
    spool = spooled([torch.tensor([[1.0, torch.nan, torch.inf]])], "float16")
    assert spool.ordered(torch.arange(1), "net").isnan().sum() == 1


def test_batches_of_different_widths_are_an_error(spooled):
    with pytest.raises(CascadeError, match="3 logits after 2"):
        spooled([torch.zeros(1, 2), torch.zeros(1, 3)])


def test_columns_grow_in_place():
    columns = Columns()
    parts = [{"a": torch.rand(n), "b": torch.randint(9, (n, 2))} for n in (3, 0, 1500, 900)]
    for part in parts:
        columns.add(part)
    for name, values in columns.rows().items():
        assert torch.equal(values, torch.cat([part[name] for part in parts]))
