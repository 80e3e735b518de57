import copy
import math

import pytest

from lit_cascade import PolicyOptions, UsageError
from lit_cascade.options import Share

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


@pytest.mark.parametrize(
    ("given", "share"),
    [
        (0.005, 0.005), ("0.5%", 0.005), ("0.5 %", 0.005), ("0.7%", 0.007), (0, 0.0), ("0", 0.0),
        (1.0, 1.0), ("1.0", 1.0), ("100%", 1.0), ("1e-3%", 1e-5), ("95%", 0.95), (Share(0.3), 0.3),
    ],
)  # fmt: skip
def test_a_share_is_a_fraction_or_a_percentage(given, share):
    assert Share(given) == share
    assert copy.deepcopy(Share(given)) == share


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (1, "x: 1 is not a share: for 1 percent write 0.01 or 1%, for all of it 1.0 or 100%."),
        ("1", "x: 1 is not a share: for 1 percent"),
        ("12.5", "x: 12.5 is not a share: for 12.5 percent write 0.125 or 12.5%."),
        (95, "for 95 percent write 0.95 or 95%"),
        ("101%", "x: expected a share from 0 to 1, such as 0.05 or 5%, got '101%'"),
        (-0.1, "expected a share"), ("nan", "expected a share"), (math.nan, "expected a share"),
        ("inf", "expected a share"), (True, "expected a share"), ("half", "got 'half'"),
    ],
)  # fmt: skip
def test_what_may_be_a_percentage_or_no_share_is_refused(given, message):
    with pytest.raises(UsageError) as refused:
        Share(given, "x")
    assert message in str(refused.value)
