"""Unfinished runs and the comparison of their plans."""

import pytest

from lit_cascade import UsageError
from lit_cascade.utilities.resume import UnfinishedRun, first_difference

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


class KilledError(Exception):
    """As if the process ended here."""


def test_a_removal_that_is_interrupted_leaves_no_work(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KilledError

    work, plan = UnfinishedRun(tmp_path / "work"), {"a": {"b": 1, "c": 2}}
    assert not work
    assert not work.resumes(plan)
    assert not work.folder.exists()
    work.start(plan)
    (work.folder / "old").touch()
    work.start(plan)
    assert work
    assert work.resumes(plan)
    assert (work.folder / "old").exists()
    with pytest.raises(UsageError, match=r"another a\.c: 2, now 3\. Choose another folder"):
        work.resumes({"a": {"b": 1, "c": 3}})
    monkeypatch.setattr("shutil.rmtree", stopped)
    with pytest.raises(KilledError):
        work.remove()
    assert (work.folder / "old").exists()
    assert not work
    assert not work.resumes({"other": 1})
    monkeypatch.undo()
    work.start({"other": 1})  # without what was left
    assert [path.name for path in work.folder.iterdir()] == ["plan.json"]
    work.remove()
    assert not work.folder.exists()


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, None),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": None}}, None),
        ({"a": {"b": 1}}, {"a": {"b": 2}, "z": 3}, ("a.b", "1", "2")),
        ({"a": {"b": 1}}, {"a": 2}, ("a", '{"b": 1}', "2")),
        ({}, {"a": "x" * 99}, ("a", "not given", '"' + 76 * "x" + "...")),
    ],
)
def test_the_first_difference_is_named(one, other, difference):
    assert first_difference(one, other) == difference


@pytest.mark.parametrize("path", [["data"], ["data", "config"], ["configs", "data"]])
def test_the_number_of_workers_is_not_compared(path):
    def nested(number, **more):
        value = {"init_args": {"num_workers": number} | more}
        for name in reversed(path):
            value = {name: value}
        return value

    assert first_difference(nested(0), nested(3)) is None
    assert first_difference({}, nested(3)) is not None
    key = ".".join([*path, "init_args", "n"])
    assert first_difference(nested(0, n=1), nested(3, n=2)) == (key, "1", "2")
