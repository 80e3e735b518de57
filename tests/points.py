"""Operating points of recorded cascades, to compare with what commands write."""

from lit_cascade.analysis.curve import outcomes_of


def point_of_records(records, policy, unit="flops", metric=None):
    """The operating point of a policy on recorded samples."""
    return outcomes_of(records, policy, unit, metric).at(policy.required_thresholds())
