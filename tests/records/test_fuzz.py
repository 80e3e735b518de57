import pytest

from tests.benchmarks.fuzz import run


@pytest.mark.slow
def test_damaged_and_hostile_records_are_refused(tmp_path):
    """The benchmark does it with a hundred thousand."""
    found = run(1500, 1, tmp_path)
    assert found["defects"] == 0, found["first_defect"]
    assert found["refused"] > 1000
    assert found["loaded"] > 0, "some changes do no harm"
    assert found["memory_grown_mb"] < 50
