import pickle

import pytest
import torch

from lit_cascade.errors import CascadeError
from lit_cascade.records.samples import Ids, Samples

NUMBERS = [30, -2, 7, 2**40]
NAMES = ["b", "ü", "a", ""]


@pytest.mark.parametrize("listed", [NUMBERS, NAMES])
def test_ids_are_indexed_like_a_list(listed):
    ids = Ids.of(listed, 4)
    assert ids.tolist() == list(ids) == listed
    assert len(ids) == 4
    assert ids.are_strings == (listed is NAMES)
    for k, one in enumerate(listed):
        assert (ids[k], type(ids[k])) == (one, type(one))
    for rows in ([2, 0], [], torch.tensor([3, 3, 1])):
        assert isinstance(ids[rows], Ids)
        assert ids[rows].tolist() == [listed[int(k)] for k in rows]
    assert ids[1:3] == listed[1:3]
    assert pickle.loads(pickle.dumps(ids)) == ids  # noqa: S301 - as between processes


@pytest.mark.parametrize("listed", [NUMBERS, NAMES])
def test_ids_equal_any_sequence_of_the_same_ids(listed):
    ids = Ids.of(listed, 4)
    assert ids == listed
    assert ids == tuple(listed)
    assert ids == Ids.of(tuple(listed), 4) == Ids(ids)
    assert ids != listed[::-1]
    assert ids != listed[:3]
    assert ids != list(map(str, range(4)))
    assert ids != 4
    assert (ids == torch.tensor(NUMBERS)) == (listed is NUMBERS)


@pytest.mark.parametrize("listed", [NUMBERS, NAMES, []])
def test_ids_are_sorted_with_their_positions(listed):
    ids, order = Ids.of(listed, len(listed)).sort()
    assert ids == sorted(listed)
    assert [listed[k] for k in order.tolist()] == sorted(listed)


@pytest.mark.parametrize("listed", [NUMBERS, NAMES, [""]])
def test_ids_come_back_from_tensors(listed):
    ids = Ids.of(listed, len(listed))
    again = Ids.from_tensors(ids.to_tensors())
    assert again == ids
    assert again.to_bytes() == ids.to_bytes()


def test_ids_of_any_container():
    assert Ids.of(None, 3) == [0, 1, 2]
    assert Ids.of(range(5, 8), 3) == [5, 6, 7]
    assert Ids.of(torch.tensor([1.0, 2.0]), 2) == [1, 2]
    with pytest.raises(CascadeError, match=r"--ids must be whole numbers, got torch.float32 with"):
        Ids.of([0.5, 1], 2, "--ids")


def test_the_first_difference_of_samples():
    one = Samples(Ids.of(NAMES, 4), torch.tensor([0, 1, 0, 1]), ("x", "y"))
    assert one.difference(Samples(NAMES, torch.tensor([0, 1, 0, 1]), ("x", "y"))) is None
    for other, difference in (
        (Samples(NAMES, one.labels, ("y", "x")), "class order, first at position 0: 'x' against"),
        (Samples(NAMES[:2], one.labels, one.classes), "ids, 4 against 2"),
        (Samples(NUMBERS, one.labels, one.classes), "ids, first at position 0: 'b' against 30"),
        (Samples(one.ids, None, one.classes), "labels, 4 against 0"),
    ):
        assert difference in one.difference(other)
        with pytest.raises(CascadeError, match="records 'one' and 'other' differ in "):
            one.check_same(other, "one", "other")
