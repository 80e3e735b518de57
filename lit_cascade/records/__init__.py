"""Records of model outputs: the only reader and writer of their files."""

from lit_cascade.records.costs import ModelCosts, priced, read_costs, read_model_costs, with_costs
from lit_cascade.records.folder import RecordedZoo, RecordSummary, find_records
from lit_cascade.records.record import (
    Record,
    RecordLike,
    check_alike,
    check_dtype_range,
    load_records,
    stage_answers,
)
from lit_cascade.records.samples import Ids, Samples, listed_labels, whole_numbers

__all__ = [
    "Ids", "ModelCosts", "Record", "RecordLike", "RecordSummary", "RecordedZoo", "Samples",
    "check_alike", "check_dtype_range", "find_records", "listed_labels", "load_records", "priced",
    "read_costs", "read_model_costs", "stage_answers", "whole_numbers", "with_costs",
]  # fmt: skip
