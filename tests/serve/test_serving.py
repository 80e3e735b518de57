"""From stages and a policy to a server, without starting one."""

import sys

import pytest
import torch
from torch import nn

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.options import ServingOptions
from lit_cascade.serve import server
from tests.cli.runs import within

PAIR = {"small": nn.Linear(3, 2), "large": nn.Linear(3, 2)}
EXAMPLE = torch.zeros(3)


@pytest.mark.parametrize("module", ["litserve", "prometheus_client"])
def test_without_the_extra_one_line_says_what_to_install(monkeypatch, tmp_path, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CascadeError, match=module):
        server(PAIR, 0.9, example=EXAMPLE)
    run = within("serve", "--config", "digits_pair.yaml", cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr == (
        f"lit-cascade serve: error: serving needs {module}, which is not installed: pip install "
        "'lit-cascade[serve]'.\n"
    )


def made(*arguments, **options):
    pytest.importorskip("litserve", reason="the extra serve is not installed")
    return server(*arguments, **({"example": EXAMPLE} | options))


def test_stages_and_policy_come_in_every_form_that_a_cascade_takes():
    served = made(PAIR, {"thresholds": {"small": 0.8}})
    assert served.policy.thresholds == (0.8,)
    assert served.names == ("small", "large")
    assert made(list(PAIR.values()), 0.5).names == ("stage0", "stage1")


def test_undecided_thresholds_and_unknown_inputs_are_refused():
    with pytest.raises(UsageError, match=r"policy\.thresholds: running a cascade needs"):
        made(PAIR, None)
    with pytest.raises(UsageError, match="example: expected a sample"):
        made(PAIR, 0.9, example=None)


def test_each_stage_has_workers_devices_and_batches_of_its_own():
    options = ServingOptions(
        batch_size={"large": 4}, workers={"small": 3, "large": 2}, devices={"large": "cpu,meta"},
        wait={"large": 0.5},
    )  # fmt: skip
    served = made(PAIR, 0.9, options)
    assert served._sizes == [32, 4]
    assert served._waits == [None, 0.5]
    assert served._places == [["cpu"] * 3, ["cpu", "meta"] * 2]
    assert [served._stage_of(number) for number in range(7)] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3),
    ]  # fmt: skip
    paths = [served._inference_workers_config_for_api(api.api_path)
             for api in served.litapi_connector]  # fmt: skip
    assert paths == served._places


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 70000}, "port"), ({"timeout": 0}, "timeout"), ({"audit": 1.5}, "audit"),
        ({"threads": 0}, "threads"), ({"queue_size": 0}, "queue_size"),
        ({"batch_size": {"x": 1}}, "'x' is unknown"), ({"workers": 0}, "workers"),
        ({"wait": float("inf")}, "wait"), ({"wait": -0.5}, "wait"),
        ({"devices": "abacus"}, "devices"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        made(PAIR, 0.9, ServingOptions(**options))
