"""Records of what models answered: the only reader and writer of their files."""

from lit_cascade.records.costs import Prices, at_cost, priced, prices_from
from lit_cascade.records.folder import RecordedZoo, Written, check_fits, find_records, stored_as
from lit_cascade.records.record import Record, check_alike, stage_answers
from lit_cascade.records.samples import Ids, Samples, as_ids, whole_numbers

__all__ = [
    "Ids",
    "Prices",
    "Record",
    "RecordedZoo",
    "Samples",
    "Written",
    "as_ids",
    "at_cost",
    "check_alike",
    "check_fits",
    "find_records",
    "priced",
    "prices_from",
    "stage_answers",
    "stored_as",
    "whole_numbers",
]
