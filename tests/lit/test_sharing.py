"""A folder gives back the cascade that was saved into it, and runs none of the code it may name."""

import json
import sys

import pytest
import torch
import yaml

from lit_cascade import CascadeError, LitCascade, Policy, UsageError, load_cascade, save_cascade
from lit_cascade.data import DigitsData
from lit_cascade.models import (
    BuiltStage,
    Network,
    Perceptron,
    Stage,
    TextBag,
    TextClassifier,
    TextConvNet,
    Timm,
)
from tests.images import some_images
from tests.texts import CLASSES, KINDS, OWN, save_classifier
from tests.toys import Net

TINY = "mobilenetv3_small_050.lamb_in1k"


class Mine(Network):
    """A network of a user's own, which knows how it was made."""

    def __init__(self, width: int = 4, *, seed: int = 0):
        super().__init__()
        self.net = Net(width, seed)

    def forward(self, x):
        return self.net(x)


@pytest.fixture
def digits(tmp_path):
    folder = tmp_path / "digits"
    save_cascade(load_cascade("digits_pair.yaml"), folder)
    return folder


def same(cascade, again, batch):
    for one, other in zip(cascade(batch), again(batch), strict=True):
        assert torch.equal(one, other)
    assert again.policy == cascade.policy
    assert again.names == cascade.names
    assert again.class_names == cascade.class_names


def changed(folder, change):
    content = yaml.safe_load((folder / "cascade.yaml").read_text())
    change(content)
    (folder / "cascade.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def test_digits_come_back_with_their_evidence(digits):
    cascade = load_cascade("digits_pair.yaml")
    cascade.policy = Policy(
        0.93, temperatures=(1.5, 1.0), names=("small", "large"), evidence={"n": 7}
    )
    save_cascade(cascade, digits)
    data = DigitsData(batch_size=450)
    data.setup("validate")
    images, _ = next(iter(data.val_dataloader()))
    again = load_cascade(digits)
    same(cascade, again, images)
    assert again.policy.evidence == {"n": 7}
    assert not again.training
    assert load_cascade(digits, Policy(0.5)).policy.thresholds == (0.5,)
    assert {path.name for path in digits.iterdir()} == {
        "cascade.yaml", "small.safetensors", "large.safetensors",
    }  # fmt: skip


def test_models_of_timm_come_back_with_their_preprocessing(tmp_path):
    torch.manual_seed(0)
    import timm

    local = tmp_path / "local"
    kept = timm.create_model("resnet10t", num_classes=3, pretrained=False)
    timm.models.save_for_hf(
        kept,
        local,
        model_config={
            "architecture": "resnet10t",
            "num_classes": 3,
            "pretrained_cfg": kept.pretrained_cfg
            | {"label_names": ["cat", "dog", "owl"], "mean": [0.1, 0.2, 0.3], "crop_pct": 0.7},
        },
        safe_serialization=True,
    )
    small = Timm("mobilenetv3_small_050", pretrained=False, num_classes=3, img_size=64)
    large = Timm(f"local-dir:{local}", model_args={"drop_rate": 0.1})
    cascade = LitCascade(
        {
            "small": Stage(lambda: small, classes=["owl", "cat", "dog"]),
            "large": Stage(lambda: large),
        },
        0.5,
    ).eval()
    save_cascade(cascade, tmp_path / "pair")
    again = load_cascade(tmp_path / "pair")
    assert cascade.class_names == ("owl", "cat", "dog")
    batch = cascade.collate(some_images(4))
    same(cascade, again, batch)
    assert {one.key for one in again.preprocessings()} == set(batch.keys())
    assert str(local) not in (tmp_path / "pair/cascade.yaml").read_text()


def test_stages_keep_the_order_and_the_choice_of_classes(tmp_path):
    stages = {name: BuiltStage(name, Mine(seed=k), "abc") for k, name in enumerate("sl")}
    cascade = LitCascade({n: Stage(lambda s=s: s.network, classes=["a", "b", "c"])
                          for n, s in stages.items()}, 0.5).eval()  # fmt: skip
    cascade.align(("c", "a"), fewer=True)
    save_cascade(cascade, tmp_path)
    again = load_cascade(tmp_path, networks=[Mine])
    assert again.class_names == ("c", "a")
    same(cascade, again, torch.randn(9, 2))
    with pytest.raises(UsageError, match=r"stage 's': the network 'tests\.lit.*Mine' is not run"):
        load_cascade(tmp_path)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A cascade of all networks for texts, and the folder that it was saved into."""
    place = tmp_path_factory.mktemp("texts")
    torch.manual_seed(0)
    kinds = {kind: save_classifier(kind, place / kind, OWN, seed=3) for kind in KINDS}
    words = str(kinds["bert"])
    networks = {
        "bag": TextBag(words, list(CLASSES), 8, pretrained=True, max_length=40),
        "conv": TextConvNet(words, width=8, convolutions=1, pretrained=False),
        **{kind: TextClassifier(str(folder)) for kind, folder in kinds.items()},
    }
    networks["bert-half"] = TextClassifier(str(kinds["bert"]), dtype="bfloat16", max_length=12)
    made = {name: Stage(lambda one=one: one) for name, one in networks.items()}
    made["conv"].classes = list(CLASSES)
    cascade = LitCascade(made, (0.6,) * (len(made) - 1)).eval()
    save_cascade(cascade, place / "saved")
    return cascade, place / "saved"


def test_stages_for_texts_bring_their_tokenizers(texts, tmp_path):
    cascade, folder = texts
    again = load_cascade(folder)
    batch = cascade.collate(list(OWN))
    assert {one.key for one in again.preprocessings()} == set(batch.keys())
    for threshold in (0.6, 1.0):
        for one in (cascade, again):
            one.policy = Policy((threshold,) * 5)
        with torch.no_grad():
            same(cascade, again, again.collate(list(OWN)))
    held = "".join(path.read_text() for path in folder.rglob("*.json"))
    assert str(folder.parent) not in held + (folder / "cascade.yaml").read_text()


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "auto_map", {"AutoModelForSequenceClassification": "evil/code--m.M"}),
        ("config.json", "attn_implementation", "evil/kernel"),
        ("config.json", "_attn_implementation", "evil/kernel"),
        ("config.json", "quantization_config", {"quant_method": "evil"}),
        ("config.json", "hidden_act", {"attn_implementation": "evil/kernel"}),
        ("config.json", "model_type", "evil"),
        ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["evil/code--t.T", None]}),
        ("tokenizer_config.json", "tokenizer_class", "EvilTokenizer"),
        ("tokenizer_config.json", "trust_remote_code", True),
        ("tokenizer_config.json", "vocab_file", "/etc/passwd"),
    ],
)
def test_settings_that_name_code_are_refused(texts, file, key, value):
    path = texts[1] / "bert" / file
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {key: value}))
    try:
        with pytest.raises(UsageError, match=r"stage 'bert': '.*bert': .*") as refusal:
            load_cascade(texts[1])
    finally:
        path.write_text(before)
    assert str(refusal.value).count("\n") == 0


EVIL = {"class_path": "evil.Net", "init_args": {}}


def refused_changes():
    def network(**values):
        return lambda c: c["stages"]["small"]["network"].update(values)

    def argument(**values):
        return lambda c: c["stages"]["small"]["network"]["init_args"].update(values)

    def stage(**values):
        return lambda c: c["stages"]["small"].update(values)

    def timm(**values):
        arguments = {"model": TINY, "pretrained": False, **values}
        return network(class_path="lit_cascade.models.Timm", init_args=arguments)

    return {
        "a class elsewhere": network(**EVIL),
        "a function": network(class_path="os.system", init_args={"command": "touch ran"}),
        "a class of the package": network(class_path="lit_cascade.models.Stage", init_args={}),
        "a base": network(class_path="lit_cascade.models.Network"),
        "a class in the arguments": argument(widths=[EVIL]),
        "a class in one": argument(scale=EVIL),
        "another argument": argument(_evil=1),
        "arguments that are no mapping": network(init_args=["x"]),
        "a wrong argument": argument(inputs="many"),
        "a checkpoint above": stage(checkpoint="../small.safetensors"),
        "a checkpoint elsewhere": stage(checkpoint="/etc/small.safetensors"),
        "a pickle": stage(checkpoint="small.pt"),
        "a file of classes": stage(classes="/etc/passwd"),
        "no network": stage(network=None),
        "a model on the hub": timm(model="hf-hub:evil/model"),
        "a folder": timm(model="local-dir:/tmp/evil"),
        "weights of the hub": timm(pretrained=True),
        "weights by default": network(
            class_path="lit_cascade.models.Timm", init_args={"model": TINY}
        ),
        "a file for timm": timm(model_args={"checkpoint_path": "evil.pth"}),
        "a config for timm": timm(model_args={"pretrained_cfg": {"file": "evil.pth"}}),
        "data for timm": timm(data_args={"evil": 1}),
        "a text model elsewhere": network(
            class_path="lit_cascade.models.TextClassifier",
            init_args={"model": "evil/model", "pretrained": False},
        ),
        "remote code": network(
            class_path="lit_cascade.models.TextClassifier",
            init_args={"pretrained": False, "model_args": {"trust_remote_code": True}},
        ),
        "a name with a path": lambda c: c["stages"].update({"../x": c["stages"].pop("small")}),
        "another format": lambda c: c.update(format="lit-cascade/9"),
        "another key": lambda c: c.update(data={"class_path": "evil.Data"}),
        "no stages": lambda c: c.update(stages=[EVIL]),
        "classes by a file": lambda c: c.update(classes="/etc/passwd"),
        "a policy of others": lambda c: c["policy"].update(thresholds={"tiny": 0.5}),
        "a policy of code": lambda c: c.update(policy=EVIL),
    }


@pytest.mark.parametrize("case", refused_changes())
def test_what_a_folder_may_not_say_is_refused_and_nothing_is_run(case, digits, monkeypatch):
    (digits / "evil.py").write_text("import pathlib; pathlib.Path('ran').touch()\nclass Net: pass")
    monkeypatch.chdir(digits)
    monkeypatch.syspath_prepend(digits)
    changed(digits, refused_changes()[case])
    with pytest.raises(UsageError) as refusal:
        load_cascade(digits)
    assert str(digits / "cascade.yaml") in str(refusal.value)
    assert str(refusal.value).count("\n") <= 1
    assert not (digits / "ran").exists()
    assert "evil" not in sys.modules


def test_the_evil_class_would_have_run_from_a_config(digits, monkeypatch):
    """What the test before this one holds off: a config of one's own may name any class."""
    (digits / "evil.py").write_text("import pathlib; pathlib.Path('ran').touch()\nclass Net: pass")
    monkeypatch.chdir(digits)
    monkeypatch.syspath_prepend(digits)
    stages = {name: {"network": EVIL} for name in ("small", "large")}
    (digits / "pair.yaml").write_text(yaml.safe_dump({"model": {"stages": stages}}))
    with pytest.raises(CascadeError):
        load_cascade("pair.yaml")
    assert (digits / "ran").exists()
    sys.modules.pop("evil", None)


def test_yaml_with_objects_and_damaged_weights_are_refused(digits):
    text = (digits / "cascade.yaml").read_text()
    (digits / "cascade.yaml").write_text(f"{text}\nx: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UsageError, match=r"cascade\.yaml. is not YAML"):
        load_cascade(digits)
    (digits / "cascade.yaml").write_text(text)
    (digits / "small.safetensors").write_bytes(b"\x80\x04 no tensors")
    with pytest.raises(CascadeError, match="cannot be read"):
        load_cascade(digits)
    (digits / "small.safetensors").unlink()
    with pytest.raises(UsageError, match=r"its weights .* are missing"):
        load_cascade(digits)
    (digits / "cascade.yaml").unlink()
    with pytest.raises(UsageError, match=r"holds no cascade\.yaml"):
        load_cascade(digits)
    (digits / "policy.json").write_text("{}")
    with pytest.raises(UsageError, match=r"run_cascade\.py"):
        load_cascade(digits)


def test_networks_that_cannot_be_made_again_are_refused(tmp_path):
    class Odd(Mine):
        def portable(self):
            return {"width": 5}, {}

    def saved(network):
        save_cascade(LitCascade([Perceptron(2, [3], 3), network], 0.5), tmp_path / "odd")

    with pytest.raises(CascadeError, match="stage 'stage1': its network is a Net, and only"):
        saved(Net())
    with pytest.raises(CascadeError, match=r"stage .stage1. cannot be shared: .* other weights"):
        saved(Odd())
    with pytest.raises(CascadeError, match="its argument seed is of Tensor, no plain value"):
        saved(Mine(seed=torch.tensor(1)))
    assert not (tmp_path / "odd").exists()
