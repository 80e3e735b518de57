"""What a policy was fitted on, told by the names that samples have."""

import pytest
import torch

from lit_cascade.analysis import check_overlap, fitted_on
from lit_cascade.errors import CascadeError
from lit_cascade.records import Record


@pytest.mark.parametrize(
    ("ids", "first"),
    [([f"val/{k}.jpg" for k in range(9)], "'val/3.jpg'"), (list(range(40, 49)), "id 43")],
)
def test_an_overlap_names_the_file_of_its_first_sample(ids, first):
    data = {"source": "here", "split": "test"}
    record = Record.from_arrays("a", torch.rand(9, 2), flops=1, ids=ids, data=data)
    evidence = {"thresholds": fitted_on(record, torch.arange(3, 9))}
    message = f"6 of these 9 samples are among those that the thresholds .*; first {first}\\)"
    with pytest.raises(CascadeError, match=message):
        check_overlap(evidence, record.samples, data, allowed=False)
