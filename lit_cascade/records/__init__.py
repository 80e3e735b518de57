"""Records of model outputs: the only reader and writer of their files."""

from lit_cascade.records.costs import ModelCosts, read_costs, resolve_cost, with_costs
from lit_cascade.records.folder import RecordedZoo, RecordSummary, find_records
from lit_cascade.records.record import Record, check_alike, check_dtype_range, stage_answers
from lit_cascade.records.samples import Ids, Samples, listed_labels, whole_numbers

__all__ = [
    "Ids", "ModelCosts", "Record", "RecordSummary", "RecordedZoo", "Samples", "check_alike",
    "check_dtype_range", "find_records", "listed_labels", "read_costs", "resolve_cost",
    "stage_answers", "whole_numbers", "with_costs",
]  # fmt: skip
