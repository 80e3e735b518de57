"""Work of a model that nothing counts, on the command line."""

import pytest
import torch

from tests.cli.runs import done, within
from tests.toys import Net

CONFIG = """
model:
  stages:
    small: {network: {class_path: tests.toys.Net}}
    large: {network: {class_path: tests.cli.test_uncounted.Exponential}}
data: {class_path: tests.toys.SharedPoints}
trainer: {accelerator: cpu, logger: false, enable_progress_bar: false}
"""


class Exponential(Net):
    """Turns its points by the exponential of a matrix."""

    def forward(self, x):
        return super().forward(x @ torch.matrix_exp(torch.tensor([[0.0, 1], [-1, 0]])))


@pytest.mark.filterwarnings("default:FLOPs of")
def test_a_count_that_is_too_low_is_said_in_one_line_per_stage(tmp_path):
    (tmp_path / "pair.yaml").write_text(CONFIG)
    words = ["validate", "--config", "pair.yaml"]
    told = done(within(*words, "--out", "a", cwd=tmp_path)).stderr.splitlines()
    (warning,) = [line for line in told if "FLOPs of" in line]
    assert warning == (
        "Warning: FLOPs of large are too low: no formula for aten::linalg_matrix_exp. "
        "Compare measured times instead, with --cost latency_s=FILE of a benchmark."
    )
    assert not any("_once" in line for line in told)  # the line of code
    assert "too low" not in done(within(*words, "--out", "b", "--quiet", cwd=tmp_path)).stderr
