import math

import pytest

from lit_cascade import PolicyOptions, UsageError

NAMES = ["small", "middle", "large"]


@pytest.mark.parametrize(
    ("floors", "expected"),
    [
        (None, (-math.inf, -math.inf)),
        ({}, (-math.inf, -math.inf)),
        ({"middle": 0.2}, (-math.inf, 0.2)),
        ({"middle": 0.2, "small": 0}, (0.0, 0.2)),
        ([0.1, 0.2], (0.1, 0.2)),
        ([-math.inf, 1], (-math.inf, 1.0)),
    ],
)
def test_floors_come_by_name_or_in_order(floors, expected):
    assert PolicyOptions(floors=floors).floors_of(NAMES) == expected


@pytest.mark.parametrize(
    ("floors", "message"),
    [
        ({"smal": 0.1}, "policy.floors: 'smal' is unknown.*Did you mean 'small'"),
        ({"large": 0.1}, "policy.floors: 'large' is unknown; known are small, middle"),
        ([0.1], "policy.floors: expected one number for each of small, middle, got 1"),
        ([], "policy.floors: expected one number for each of small, middle, got 0"),
        ([0.1] * 3, "got 3"),
    ],
)
def test_floors_that_name_no_stage_are_refused(floors, message):
    with pytest.raises(UsageError, match=message):
        PolicyOptions(floors=floors).floors_of(NAMES)
