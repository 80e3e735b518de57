"""`card` and `push`: a folder that others load from the hub."""

import json
import shutil

import httpx2
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import GatedRepoError, LocalTokenNotFoundError, OfflineModeIsEnabled

from lit_cascade import CascadeError, UsageError, load_cascade
from lit_cascade.data import DigitsData
from tests.cli.runs import done, within
from tests.hub import Hub, refused


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    place = tmp_path_factory.mktemp("shared")
    words = ["--config", "digits_pair.yaml", "--policy.thresholds.small", "0.9"]
    run = done(
        within("card", *words, "--name", "me/digits", "--license", "mit", "--out", "c", cwd=place)
    )
    return place / "c", run


@pytest.fixture
def hub(tmp_path):
    hub = Hub(tmp_path / "cache")
    with hub.patched():
        yield hub


def push(folder, *words):
    return within("push", *words, "--folder", folder, cwd=folder)


def test_the_card_says_what_the_cascade_is_and_does(shared, validated):
    folder, run = shared
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit"
    assert card.data.library_name == "lit-cascade"
    (result,) = card.data.eval_results
    summary = json.loads((validated[0] / "summary.json").read_text())
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md", "curve.png", "cascade.yaml", "small.safetensors", "large.safetensors",
    }  # fmt: skip
    small, large = (f"{100 * stage['accuracy']:.2f} %" for stage in summary["stages"])
    assert f"| small | Perceptron | {small} | 18.9 k |" in card.text
    assert f"against {large} of large alone" in card.text
    assert "| 0.9 |" in card.text
    assert f"accuracy {100 * result.metric_value:.2f} % against" in card.text
    assert "None: the thresholds were not chosen" in card.text
    assert 'load_cascade("me/digits")' in card.text
    assert "On digits, split 'validation' (450 samples): accuracy" in run.stdout


def test_the_promise_and_its_samples_are_in_the_card(tmp_path, records):
    paths = list(map(str, records))
    done(
        within("select", "--records", *paths, "--deferral_rate", "0.2", "--out", "s", cwd=tmp_path)
    )
    words = ["--policy", "s/policy.yaml", "--records", *paths, "--out", "c"]
    refusal = within("card", *words, cwd=tmp_path)
    assert refusal.returncode == 1
    assert "among those that the thresholds were fitted on" in refusal.stderr
    done(within("card", *words, "--allow_overlap", cwd=tmp_path))
    text = (tmp_path / "c/README.md").read_text()
    assert "deferral rate \\<= 20 % on new samples of the same kind, with 95 % confidence" in text
    assert "- Thresholds: digits, split 'validation', 450 samples." in text
    assert "Not part of this folder." in text
    (tmp_path / "c/policy.json").write_text("{}")  # an export
    again = within("card", *words, "--allow_overlap", cwd=tmp_path)
    assert "already holds README.md" in again.stderr
    done(within("card", *words, "--allow_overlap", "--overwrite", cwd=tmp_path))
    assert "run_cascade.py" in (tmp_path / "c/README.md").read_text()


def test_a_policy_needs_thresholds_and_other_networks_get_the_card_alone(tmp_path, records):
    paths = list(map(str, records))
    refusal = within("card", "--records", *paths, "--out", "c", cwd=tmp_path)
    assert refusal.returncode == 2
    assert "policy.thresholds: running a cascade needs a threshold for small" in refusal.stderr
    stage = {"network": {"class_path": "tests.toys.Net"}}
    config = {
        "model": {"stages": {"a": stage, "b": stage}},
        "data": {"class_path": "tests.toys.SharedPoints"},
        "policy": {"thresholds": [0.5]},
    }
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(config))
    run = done(within("card", "--config", "toys.yaml", "--out", "d", cwd=tmp_path))
    assert "stage 'a': its network is a Net, and only networks of" in run.stdout
    assert "Only the card is written." in run.stdout
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"README.md", "curve.png"}
    assert "Not part of this folder." in (tmp_path / "d/README.md").read_text()


def test_what_is_pushed_is_what_is_loaded(shared, hub):
    folder, _ = shared
    (folder / ".secret").write_text("token")
    run = done(push(folder, "me/digits", "--private"))
    assert "Uploaded to https://hub/me/digits/commit/1" in run.stdout
    assert "Uploading 5 files, 2" in run.stderr
    assert hub.private == {"me/digits": True}
    hub.files["me/digits"]["main"] |= {"evil.py": b"", "pickle.bin": b"", "a/code.py": b""}
    assert ".secret" not in hub.files["me/digits"]["main"]
    cascade, bundled = load_cascade("me/digits"), load_cascade("digits_pair.yaml")
    fetched = {path.name for path in (hub.cache / "me/digits/main").rglob("*.*")}
    assert fetched == {"cascade.yaml", "small.safetensors", "large.safetensors"}
    bundled.policy = cascade.policy
    assert cascade.policy.thresholds == (0.9,)
    data = DigitsData(batch_size=450)
    data.setup("validate")
    images, _ = next(iter(data.val_dataloader()))
    for one, other in zip(cascade(images), bundled(images), strict=True):
        assert torch.equal(one, other)
    assert 0 < int(cascade(images).stage.sum()) < 450


def test_revisions_are_branches(shared, hub, tmp_path):
    folder = shutil.copytree(shared[0], tmp_path / "own")
    done(push(folder, "digits"))
    config = folder / "cascade.yaml"
    config.write_text(config.read_text().replace("small: 0.9\n", "small: 0.5\n"))
    exists = push(folder, "digits", "--revision", "v2")
    assert exists.returncode == 2
    assert "name: 'digits' is on the hub already; choose another name, or add --overwrite" in (
        exists.stderr
    )
    done(push(folder, "digits", "--revision", "v2", "--overwrite", "--message", "lower"))
    assert hub.messages == ["Upload by lit-cascade", "lower"]
    assert load_cascade("me/digits").policy.thresholds == (0.9,)
    assert load_cascade("me/digits", revision="v2").policy.thresholds == (0.5,)
    with pytest.raises(UsageError, match="revision: 'me/digits' has no revision 'v3'"):
        load_cascade("me/digits", revision="v3")
    with pytest.raises(UsageError, match="revision: expected none"):
        load_cascade("digits_pair.yaml", revision="v2")


def test_nothing_private_goes_into_a_public_repository(shared, hub):
    done(push(shared[0], "me/open"))
    before = dict(hub.files["me/open"]["main"])
    run = push(shared[0], "me/open", "--private", "--overwrite")
    assert run.returncode == 2
    assert "--private: 'me/open' is on the hub already, and public" in run.stderr
    assert hub.files["me/open"]["main"] == before


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OfflineModeIsEnabled("offline"), CascadeError, "the hub cannot be reached for 'me/x'"),
        (httpx2.ConnectError("no route"), CascadeError, "the hub cannot be reached for 'me/x'"),
        (TimeoutError("slow"), CascadeError, "the hub cannot be reached for 'me/x'"),
        (refused(GatedRepoError, 403), CascadeError, "the terms of 'me/x' must be accepted"),
        (LocalTokenNotFoundError("log in first"), CascadeError, "refuses 'me/x': log in first"),
    ],
)
def test_what_the_hub_says_is_one_message(error, kind, message, hub, shared, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(kind, match=message) as refusal:
        load_cascade("me/x")
    assert "\n" not in str(refusal.value)
    monkeypatch.setattr(hub, "create_repo", fail)
    run = push(shared[0], "me/x")
    assert run.returncode == kind.exit_code
    assert message in run.stderr
    assert run.stderr.count("\n") == 2


def test_the_real_client_says_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CascadeError, match=r"for 'me/none' \(HF_HUB_OFFLINE is set\), and its"):
        load_cascade("me/none")
    with pytest.raises(UsageError, match=r"there is no file 'digit_pair\.yaml'"):
        load_cascade("digit_pair.yaml")
    with pytest.raises(UsageError, match="there is no file 'me/none/more'"):
        load_cascade("me/none/more")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected NAME and --folder FOLDER"),
        (["me/x"], "--folder: expected the folder to upload"),
        (["me/x", "you/y", "--folder", "."], "expected one NAME on the hub, got me/x, you/y"),
        (["me/x", "--folder", "nothing"], "--folder: there is no file or folder 'nothing'"),
        (["me/x", "--folder", "."], "--folder: '.' holds neither cascade.yaml nor policy.json"),
    ],
)
def test_wrong_words(words, message, tmp_path, hub):
    run = within("push", *words, cwd=tmp_path)
    assert run.returncode == 2
    assert message in run.stderr
    assert not hub.files
