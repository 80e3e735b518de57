"""From stages and a policy to a server, without starting one."""

import sys

import pytest
import torch
import yaml
from torch import nn

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.options import ServingOptions
from lit_cascade.serve import server
from lit_cascade.serve.inputs import ImageInput, TextInput
from tests.cli.runs import done, within
from tests.texts import save_classifier

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


@pytest.fixture
def described(monkeypatch, tmp_path):
    """What the command would serve: keyword arguments of `server`, without starting it."""

    def describe(*words):
        given = {}

        class Served:
            def serve(self):
                given["served"] = True

        def fake(stages, policy, options, **others):
            given.update(others, stages=stages, policy=policy, options=options)
            return Served()

        monkeypatch.setattr("lit_cascade.cli.serve.server", fake)
        done(within("serve", *words, cwd=tmp_path))
        assert given["served"]
        return given

    return describe


def config(path, network, data, **policy):
    """Write the config of two stages."""
    stages = {name: {"network": network} for name in ("small", "large")}
    content = {"model": {"stages": stages}, "data": data, "policy": {"thresholds": [0.5]} | policy}
    path.write_text(yaml.safe_dump(content))
    return ("--config", path)


def test_images_are_served_without_any_data_at_hand(described, tmp_path):
    given = described("--config", "cifar10/pair.yaml", "--data.init_args.source", "nowhere")
    assert given["inputs"] == ImageInput(size=32)
    timm = {
        "class_path": "lit_cascade.models.Timm",
        "init_args": {"model": "mobilenetv3_small_050.lamb_in1k", "pretrained": False},
    }
    some = ["n02123045", "n01440764"]
    data = {
        "class_path": "lit_cascade.data.ImageData",
        "init_args": {"source": "nowhere", "classes": some},
    }
    given = described(*config(tmp_path / "pair.yaml", timm, data), "--max_pixels", 1000)
    assert given["inputs"] == ImageInput(1000)
    assert given["classes"] == tuple(some)  # the models answer among the classes of the config
    assert all(one.class_names == tuple(some) for one in given["stages"].values())


def test_texts_and_pairs_are_served_without_any_data_at_hand(described, tmp_path):
    folder = save_classifier("bert", tmp_path / "bert", ["a text"] * 50)
    text = {
        "class_path": "lit_cascade.models.TextClassifier",
        "init_args": {"model": str(folder)},
    }
    for task, kind in (("sst2", TextInput()), ("mrpc", TextInput(pair=True))):
        data = {"class_path": "lit_cascade.data.GlueData", "init_args": {"task": task}}
        changed = {**text, "init_args": {**text["init_args"]}}
        if task == "mrpc":
            changed["init_args"]["classes"] = {
                "negative": "not_equivalent", "positive": "equivalent",
            }  # fmt: skip
        given = described(*config(tmp_path / f"{task}.yaml", changed, data))
        assert given["inputs"] == kind
        assert len(given["classes"]) == 2


def test_options_and_policy_are_those_of_the_command_line(described):
    given = described(
        "--config", "digits_pair.yaml", "--batch_size.large", 4, "--policy.thresholds.small", 0.5,
        "--audit", "1%",
    )  # fmt: skip
    assert given["options"].by_stage("batch_size", ["small", "large"]) == [32, 4]
    assert given["policy"].thresholds == (0.5,)
    assert given["options"].audit == 0.01
    assert given["classes"] == tuple("0123456789")
    assert given["inputs"].expected == "nested lists of float32 numbers of shape (1, 8, 8)"
