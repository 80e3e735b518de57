import math

from lit_cascade.core.policy import Policy, policy_of
from lit_cascade.options import PolicyOptions


def test_options_become_a_policy():
    names = ["small", "middle", "large"]
    options = PolicyOptions(
        score="margin",
        thresholds={"small": 0.9, "middle": 0.8},
        temperatures={"middle": 2.0},
        combine="average",
        floors={"middle": 0.1},
    )
    assert policy_of(options, names) == Policy(
        (0.9, 0.8), "margin", (1.0, 2.0, 1.0), "average", (-math.inf, 0.1)
    )
    assert policy_of(PolicyOptions(floors=[0.1, 0.2]), names) is None
