"""The wheel, the configs and the README hold what they promise."""

import importlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from lit_cascade import Policy, Record, load_cascade
from lit_cascade.cli import main
from lit_cascade.data import DigitsData
from lit_cascade.records import read_costs
from lit_cascade.utilities.class_names import readable_names
from tests.cli.runs import done, within

ROOT = Path(__file__).parents[1]
IMAGENET = ROOT / "checkpoints/imagenet"
CONFIGS = sorted(path.relative_to(ROOT / "configs") for path in ROOT.glob("configs/**/*.yaml"))
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_wheel_runs_without_the_checkout(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "unpacked")
    assert "lit_cascade/configs/digits_pair.yaml" in names
    assert "lit_cascade/checkpoints/digits/small.safetensors" in names
    assert "lit_cascade/checkpoints/imagenet/validation/resnet18.safetensors" in names
    assert "lit_cascade/checkpoints/imagenet/LICENSE" in names
    assert "lit_cascade/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    unpacked = str(tmp_path / "unpacked")
    program = "from lit_cascade import __file__, cli; print(__file__, cli.main())"
    run = subprocess.run(
        [sys.executable, "-c", program, "validate", "--config", "digits_pair.yaml", "--out", "o"],
        capture_output=True, text=True, check=False, cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": unpacked},
    )  # fmt: skip
    assert "For the accuracy of 'large'" in run.stdout, run.stderr
    last = run.stdout.splitlines()[-1]
    assert last.startswith(unpacked)
    assert last.endswith(" 0")


def printed_config(command, *configs):
    """What `--print_config` prints, in this process."""
    words = [word for config in configs for word in ("--config", str(config))]
    with pytest.raises(SystemExit) as stop:
        main([command, *words, "--print_config"])
    assert stop.value.code == 0


def merged(under, over):
    """Two configs composed, the second on top."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    both = {key: merged(under[key], over[key]) for key in under.keys() & over.keys()}
    return {**under, **over, **both}


def holds(found, part):
    """Whether a config has all that a part of it says."""
    if isinstance(part, dict) and isinstance(found, dict):
        return all(key in found and holds(found[key], value) for key, value in part.items())
    return found == part


def composition(config, content):
    """The command that a config is for, and the configs that belong before it."""
    model, recipe = content.get("model", {}), config.with_name("fit.yaml")
    of_zoo = (ROOT / "configs" / recipe).is_file()  # of the zoo that a model belongs to
    if "stages" in model:
        return "validate", []
    if "timm" in model:
        return "record", []
    if not of_zoo and not model:  # other images for any models
        return "validate", [Path("imagenet_pair.yaml")]
    if not of_zoo or config == recipe:
        return "fit", []
    # what says nothing of a network is about the data, or about how to train: for any model
    return "fit", [recipe] if "network" in model else [recipe, config.with_name("conv.yaml")]


@pytest.mark.filterwarnings("ignore:.*deterministic.*")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_config_parses(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    content = yaml.safe_load((ROOT / "configs" / config).read_text())
    command, before = composition(config, content)
    printed_config(command, *before, config)
    found = yaml.safe_load(capsys.readouterr().out)
    wanted: dict = {}
    for path in [*before, config]:
        wanted = merged(wanted, yaml.safe_load((ROOT / "configs" / path).read_text()))
    assert found["model"]
    assert holds(found, wanted)
    made = found["model"].get("network") or {}
    if made.get("class_path", "").endswith(".ResNet"):
        assert found["model"]["name"] == config.stem
        module, _, name = made["class_path"].rpartition(".")
        network = getattr(importlib.import_module(module), name)(**made["init_args"])
        assert f"-w{network.stem[0].out_channels}" in f"{config.stem}-"


def card(path):
    return yaml.safe_load(path.with_suffix(".md").read_text().split("---")[1])


def test_every_checkpoint_has_a_card():
    checkpoints = sorted(ROOT.glob("checkpoints/*/*.safetensors"))
    assert checkpoints
    for path in checkpoints:
        for key in ("data", "accuracy", "samples", "flops", "parameters", "command", "versions"):
            assert card(path)[key]


def test_every_bundled_record_says_what_the_card_of_its_model_says():
    splits = ("calibration", "validation", "test")
    paths = [
        path
        for path in ROOT.glob("checkpoints/**/*.safetensors")
        if path.parent.name in splits and path.parents[1] != IMAGENET
    ]
    assert len(paths) >= 52
    for path in paths:
        record, told = Record.load(path), card(path.parents[1] / path.name)
        assert record.name == told["name"]
        assert record.data["split"] == path.parent.name
        assert record.data["name"] == told["data"]
        assert len(record) == told["samples"][path.parent.name]
        assert list(record.classes) == told["classes"]
        if path.parent.name == list(told["samples"])[-1]:  # the one that a card's cost is of
            assert float(record.cost().mean()) == pytest.approx(told["flops"], rel=1e-12)
        assert record.logits.dtype == torch.float16
        right = float((record.logits.argmax(dim=1) == record.labels).float().mean())
        # trained and judged in bfloat16, recorded in float32
        few = max(0.003, 4.5 / len(record))
        assert right == pytest.approx(told["accuracy"][path.parent.name], abs=few)


def test_bundled_files_are_small():
    assert sum(path.stat().st_size for path in ROOT.glob("checkpoints/**/*.*")) < 25e6


# As torchvision's page of models, Cadene's table and that of TF-slim say, in percent.
PUBLISHED = {
    "alexnet": 56.52, "resnet18": 69.76, "resnet50": 76.13, "resnet152": 78.31, "vgg16_bn": 73.36,
    "densenet161": 77.14, "dpn107": 79.75, "senet154": 81.30, "nasnetalarge": 82.57,
    "se_resnext50_32x4d": 79.08, "mobilenet_v1_tf": 70.9, "nasnet_mobile_tf": 74.0,
    "resnet_v2_50_tf": 75.6, "pnasnet_large_tf": 82.9, "inception_v4_tf": 80.2,
}  # fmt: skip


def test_bundled_answers_on_imagenet_are_those_that_were_published():
    _, flops = read_costs(f"flops={IMAGENET / 'flops.csv'}")
    paths = sorted(IMAGENET.glob("validation/*.safetensors"))
    assert len(paths) == 60
    records = {path.stem: Record.load(path) for path in paths}
    for name, record in records.items():
        assert (record.name, len(record), len(record.classes)) == (name, 50_000, 1_000)
        assert record.data["split"] == "validation"
        assert record.cost().unique().tolist() == [flops[name]]
    assert set(flops) == set(records)
    assert (records["resnet18"].labels.bincount() == 50).all()
    for name, percent in PUBLISHED.items():
        assert 100 * float(records[name].right.double().mean()) == pytest.approx(percent, abs=0.13)
    assert readable_names(records["resnet18"].classes)["n01440764"] == "tench"


def test_the_bundled_answers_on_photographs_are_those_of_the_results():
    from tests.benchmarks.photographs import LARGE, across_halves, singles, zoo_of

    results = json.loads((ROOT / "docs/results/photographs.json").read_text())
    zoo = zoo_of(ROOT / "checkpoints/imagenet_photographs/flickr1000")
    assert singles(zoo) == results["models"]["flickr1000"]
    for record in zoo.values():
        assert record.logits is None
        assert len(record.classes) == 1000
        assert (record.labels == zoo[LARGE].labels).all()
    (told,) = (one for one in results["halves"] if one["small"] == "mobilenet_v2_1.0_224")
    again = across_halves(zoo, told["small"], results["splits"])
    assert again.pop("small") == told.pop("small")
    assert again.keys() == told.keys()
    for key, value in told.items():
        assert again[key] == pytest.approx(value)


def test_a_published_model_is_counted_as_it_was_built():
    """Multiply-adds and parameters in millions: papers, and the profile of TF-slim's ResNet."""
    from tests.benchmarks.imagenet_records import cost_of

    for name, macs, parameters in (
        ("nasnet_mobile_tf", 564, 5.3), ("resnet_v1_50_tf", 3482, 25.6),
        ("mobilenet_v1_tf", 569, 4.2), ("se_resnet50", 3860, 28.1), ("cafferesnet101", 7570, 44.5),
    ):  # fmt: skip
        cost = cost_of(name)
        assert cost.flops / 2e6 == pytest.approx(macs, rel=0.001)
        assert cost.parameters / 1e6 == pytest.approx(parameters, abs=0.06)


def test_the_top_level_holds_only_what_is_customary():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    assert {name.split("/")[0] for name in tracked} <= {
        ".ci", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md",
        "LICENSE", "Makefile", "README.md", "checkpoints", "configs", "constraints.txt", "docs",
        "lit_cascade", "mkdocs.yml", "pyproject.toml", "tests",
    }  # fmt: skip


def test_the_readme_shows_both_commands_on_its_first_screen():
    first_screen = README[:2600]
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    """With the bundled classifiers in the place of the reader's modules."""
    (program,) = blocks("python")
    stages, data = load_cascade("digits_pair.yaml").networks(), DigitsData(batch_size=90)
    data.setup()
    images, labels = next(iter(data.val_dataloader()))
    names = {**stages, "calibration_loader": data.calibration_dataloader(), "images": images}
    monkeypatch.chdir(tmp_path)
    exec(program, names)  # noqa: S102
    assert float((names["answers"].prediction == labels).float().mean()) > 0.97
    policy = Policy.load("policy.yaml")
    assert policy == names["cascade"].policy
    assert policy.evidence["promise"]["limit"] == 0.01


def test_the_commands_of_the_readme_run_in_order(tmp_path):
    commands = [
        line.removeprefix("lit-cascade ").split(" #")[0].split()
        for block in blocks("bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("lit-cascade ")
    ]
    assert len(commands) >= 4
    (tmp_path / "my_project.py").write_text(blocks("python my_project.py")[0])
    (tmp_path / "my_pair.yaml").write_text(blocks("yaml")[0])
    for words in commands:
        done(within(*words, cwd=tmp_path))


def test_the_table_of_the_readme_is_what_is_printed(tmp_path):
    run = done(within("validate", "--config", "digits_pair.yaml", "--out", "o", cwd=tmp_path))
    (shown,) = (block for block in blocks("text") if "operating point" in block)
    printed = [line.rstrip() for line in run.stdout.splitlines()]
    for line in shown.splitlines():
        if line.strip() and not line.startswith("Wrote"):
            assert line.rstrip() in printed
