import csv
import errno
import importlib
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lit_cascade import Record, lit
from lit_cascade.analysis.curve import curve as curve_of
from lit_cascade.cli import COMMANDS, main, parsing
from tests.cli.runs import done, lit_cascade, together, variables, within

ROOT = Path(__file__).parents[2]


def numbers(path):
    return json.loads((path / "summary.json").read_text())


def test_the_table_names_what_can_be_chosen(validated):
    _, run = validated
    for text in (
        "Stages on digits, split 'validation': 450 samples",
        "same accuracy as last stage",
        "at most 0.5 points below",
        "the thresholds given",
        "For the accuracy of 'large', defer below",
        "were chosen on these samples, so they are optimistic",
    ):
        assert text in run.stdout
    assert "it/s" not in run.stdout


def test_the_curve_runs_from_the_small_model_to_the_large(validated):
    folder, _ = validated
    with (folder / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["threshold", "deferral_rate", "accuracy", "flops", "flops_ratio"]
    small, large = numbers(folder)["stages"]
    first, last = ({k: float(v) for k, v in row.items()} for row in (rows[0], rows[-1]))
    assert first["threshold"] == -math.inf
    assert last["threshold"] == math.inf
    assert (first["deferral_rate"], first["accuracy"]) == (0, small["accuracy"])
    assert (last["deferral_rate"], last["accuracy"]) == (1, large["accuracy"])
    assert first["flops"] == small["flops"]
    assert last["flops"] == small["flops"] + large["flops"]
    assert last["flops_ratio"] == pytest.approx(last["flops"] / large["flops"])
    thresholds = [float(row["threshold"]) for row in rows]
    assert thresholds == sorted(set(thresholds))


def test_the_summary_says_what_the_table_says(validated):
    folder, _ = validated
    summary = numbers(folder)
    assert summary["n"] == 450
    assert [stage["name"] for stage in summary["stages"]] == ["small", "large"]
    assert [stage["parameters"] for stage in summary["stages"]] == [9738, 38442]
    assert [stage["flops"] for stage in summary["stages"]] == [18944, 1826816]
    points = summary["operating_points"]
    assert list(points) == ["same_accuracy", "best_accuracy", "drop_0.5", "drop_1.0"]
    for point in points.values():
        assert list(point) == ["threshold", "deferral_rate", "accuracy", "flops", "flops_ratio"]
    assert points["same_accuracy"]["accuracy"] >= summary["stages"][1]["accuracy"]
    assert summary["provenance"]["data"]["split"] == "validation"


def test_the_picture_is_a_png(validated):
    folder, _ = validated
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_small_model_is_small_and_the_large_fifty_times_as_large(validated):
    folder, _ = validated
    small, large = numbers(folder)["stages"]
    assert small["flops"] <= 20_000
    assert large["flops"] >= 50 * small["flops"]


def test_a_threshold_from_the_calibration_split_keeps_the_accuracy_at_a_fraction_of_the_cost(
    validated, tmp_path
):
    folder, _ = validated
    done(
        within(
            "validate", "--config", "digits_pair.yaml", "--split", "calibration", "--out", "cal",
            cwd=tmp_path,
        )
    )  # fmt: skip
    chosen = numbers(tmp_path / "cal")["operating_points"]["same_accuracy"]["threshold"]
    config = yaml.safe_load((ROOT / "configs/digits_pair.yaml").read_text())
    given = config["policy"]["thresholds"]["small"]
    with (tmp_path / "cal" / "curve.csv").open() as file:
        scores = sorted(float(row["threshold"]) for row in csv.DictReader(file))
    below = max(score for score in scores if score < chosen)
    assert below < given <= chosen  # the config's threshold is that choice, in few digits
    judged, large = numbers(folder)["policy"], numbers(folder)["stages"][1]
    assert judged["accuracy"] >= large["accuracy"] - 0.01
    assert judged["flops_ratio"] <= 1 / 4


def test_records_alone_give_the_same_figures(validated, records, tmp_path):
    folder, _ = validated
    run = done(
        within(
            "validate", "--records", *records, "--policy.thresholds.small", "0.92", "--out", "o",
            cwd=tmp_path,
        )
    )  # fmt: skip
    assert (tmp_path / "o/curve.csv").read_text() == (folder / "curve.csv").read_text()
    assert numbers(tmp_path / "o") == numbers(folder)
    assert "Stages on digits" in run.stdout


def test_the_saved_records_hold_the_curve(validated, records):
    folder, _ = validated
    loaded = [Record.load(path) for path in records]
    curve = curve_of(loaded)
    with (folder / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == curve.accuracy.tolist()


def test_calibration_writes_an_overlay_that_validate_takes(records, tmp_path):
    run = done(within("calibrate", "--config", "digits_pair.yaml", "--out", ".", cwd=tmp_path))
    for text in ("NLL before", "ECE before", "split 'calibration'", "choose again"):
        assert text in run.stdout
    overlay = yaml.safe_load((tmp_path / "calibration.yaml").read_text())["policy"]
    fits = overlay["evidence"]["temperatures"]["fits"]["small"]
    assert fits["temperature"] == overlay["temperatures"]["small"] > 0
    assert overlay["thresholds"] is None
    assert (tmp_path / "calibrate.png").read_bytes().startswith(b"\x89PNG")
    assert numbers(tmp_path)["recommended"] == "none"
    both = done(
        within(
            "validate", "--config", "digits_pair.yaml", "--config", "calibration.yaml",
            "--out", "both", cwd=tmp_path,
        )
    )  # fmt: skip
    assert "same accuracy as last stage (T = 1)" in both.stdout
    summary = numbers(tmp_path / "both")
    assert summary["temperatures"]["small"] == fits["temperature"]
    assert summary["uncalibrated"]["same_accuracy"]["accuracy"] >= 0.99
    assert (tmp_path / "both/curve_uncalibrated.csv").is_file()
    alone = done(
        within(
            "validate", "--records", *records, "--config", "calibration.yaml", "--out", "alone",
            cwd=tmp_path,
        )
    )  # fmt: skip
    assert numbers(tmp_path / "alone") == summary
    assert "(T = 1)" in alone.stdout


def test_test_runs_the_cascade_and_agrees_with_the_replay(validated, tmp_path):
    folder, _ = validated
    run = done(within("test", "--config", "digits_pair.yaml", "--out", ".", cwd=tmp_path))
    ran = json.loads((tmp_path / "test.json").read_text())
    told = numbers(folder)["policy"]
    for key in ("thresholds", "accuracy", "deferral_rate", "flops", "flops_ratio", "answered"):
        assert ran[key] == told[key]
    assert sum(ran["executed_flops"].values()) == pytest.approx(ran["flops"] * ran["n"])
    assert "FLOPs executed per sample" in run.stdout


def test_several_processes_write_the_numbers_of_one(tmp_path):
    words = ("validate", "--config", "digits_pair.yaml", "--trainer.accelerator", "cpu")
    words += ("--split", "calibration", "--out")  # 449 samples, which neither 2 nor 3 divides
    done(within(*words, "one", cwd=tmp_path))
    done(together(2, [*words, "two"], cwd=tmp_path))
    done(together(3, [*words, "three"], cwd=tmp_path))
    assert numbers(tmp_path / "one")["n"] == 449
    for out in ("two", "three"):
        assert numbers(tmp_path / out) == numbers(tmp_path / "one")
        curves = [tmp_path / folder / "curve.csv" for folder in ("one", out)]
        assert curves[0].read_text() == curves[1].read_text()


def test_fewer_batches_than_processes_and_a_real_run_on_two(tmp_path):
    words = ("--config", "digits_pair.yaml", "--trainer.accelerator", "cpu")
    words += ("--data.init_args.batch_size", "500")
    words += ("--trainer.logger", "lightning.pytorch.loggers.CSVLogger")
    words += ("--trainer.logger.init_args.save_dir", "logs", "--out")
    files = {
        "calibrate --share 0.6": ["calibration.yaml", "summary.json"],
        "test": ["test.json"],
        "validate": ["summary.json"],
        "predict --format csv": ["predictions.csv"],
    }
    commands = [(command.split()[0], *words, command.split()) for command in files]
    for name, *rest, own in commands:
        done(within(name, *rest, f"{name}1", *own[1:], cwd=tmp_path))
    both = [(name, *rest, f"{name}2", *own[1:]) for name, *rest, own in commands]
    done(together(2, *both, cwd=tmp_path))
    for command, written in files.items():
        name = command.split()[0]
        for file in written:
            one, two = (tmp_path / f"{name}{count}" / file for count in (1, 2))
            assert one.read_bytes() == two.read_bytes()


def test_fit_writes_a_checkpoint_and_a_card_that_validate_can_use(tmp_path):
    run = done(
        within(
            "fit", "--config", "digits_small.yaml", "--trainer.max_epochs", "3", "--out", "fit",
            cwd=tmp_path,
        )
    )  # fmt: skip
    assert "small, trained on digits" in run.stdout
    card = (tmp_path / "fit/small.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["flops"] == 18944
    assert head["samples"] == {"calibration": 449, "validation": 450}
    assert "max_epochs: 3" in card
    done(
        within(
            "validate", "--config", "digits_pair.yaml",
            "--model.stages.small.checkpoint", "fit/small.safetensors", "--out", "o", cwd=tmp_path,
        )
    )  # fmt: skip
    assert numbers(tmp_path / "o")["stages"][0]["accuracy"] == head["accuracy"]["validation"]


@pytest.mark.parametrize("name", ["small", "large"])
def test_training_again_gives_the_accuracy_of_the_card(name, tmp_path):
    done(within("fit", "--config", f"digits_{name}.yaml", "--out", "again", cwd=tmp_path))
    told, again = (
        yaml.safe_load(path.read_text().split("---")[1])
        for path in (ROOT / f"checkpoints/digits/{name}.md", tmp_path / "again" / f"{name}.md")
    )
    for split, accuracy in told["accuracy"].items():
        # other processors round otherwise: then some samples at the border may change sides
        assert again["accuracy"][split] == pytest.approx(accuracy, abs=0.01)
    assert again["flops"] == told["flops"]


def test_three_stages_share_the_swept_threshold(records, tmp_path):
    small, large = (Record.load(path) for path in records)
    middle = Record.from_arrays(
        "middle", (small.logits + large.logits) / 2, small.labels, ids=small.ids, flops=2e5
    )
    middle.save(tmp_path / "middle.safetensors")
    run = done(
        within(
            "validate", "--records", records[0], "middle.safetensors", records[1],
            "--policy.thresholds", "[0.9, 0.8]", "--out", "o", cwd=tmp_path,
        )
    )  # fmt: skip
    assert "shared by all stages but the last" in run.stdout
    summary = numbers(tmp_path / "o")
    assert summary["policy"]["thresholds"] == {"small": 0.9, "middle": 0.8}
    assert sum(summary["policy"]["answered"].values()) == pytest.approx(1)


def test_stages_out_of_order_are_noted(records, tmp_path):
    run = done(within("validate", "--records", *reversed(records), "--out", "o", cwd=tmp_path))
    assert "stage 'large' costs more FLOPs than 'small' after it" in run.stdout
    assert numbers(tmp_path / "o")["notes"]


def test_a_new_folder_is_taken_each_time(records, tmp_path):
    for number in (1, 2):
        done(within("validate", "--records", *records, cwd=tmp_path))
        assert (tmp_path / f"runs/validate-{number}/summary.json").is_file()


def test_help_lists_every_command():
    run = subprocess.run(
        [Path(sys.executable).parent / "lit-cascade", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert max(map(len, run.stdout.splitlines())) <= 80
    for name, command in COMMANDS.items():
        assert f"{name} " in run.stdout
        assert command.summary in " ".join(run.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_functions_that_the_table_promises(name):
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    on_files = command.model is None or any(f.name == "records" for f in fields(command.options))
    assert hasattr(module, "run_files") == on_files
    assert hasattr(module, "run_models") == (command.model is not None)
    assert command.model is None or hasattr(lit, command.model)


def test_help_loads_no_torch():
    program = (
        "import sys\n"
        "from importlib.metadata import entry_points\n"
        "(entry,) = entry_points(group='console_scripts', name='lit-cascade')\n"
        "main = entry.load()\n"
        "for command in ['', *sys.argv[1:]]:\n"
        "    sys.argv = ['lit-cascade', *command.split(), '--help']\n"
        "    print('command:', command)\n"
        "    code = main()\n"
        "    heavy = {'torch', 'lightning', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "    if code or heavy:\n"
        "        sys.exit(f'{command}: {code} {heavy}')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *COMMANDS], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    _, whole, *each = run.stdout.split("command: ")
    assert "usage: lit-cascade COMMAND" in whole
    for name, text in zip(COMMANDS, each, strict=True):
        assert text.startswith(f"{name}\n")
        assert f"lit-cascade {name}" in text
        assert ("--out FOLDER" in text) == hasattr(COMMANDS[name].options, "out")


SAMPLES = {"N": "3", "NUMBER": "0.5", "SHARE": "5%", "FILE": "policy.yaml", "SCORE": "margin"}
FORM = re.compile(
    r"^  (?:-\S, )?(--[a-z_]\S*)(?: ([A-Z{\[]\S*(?: \.\.\.)?))?(?:  .*)?$", re.MULTILINE
)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_forms_that_work(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.yaml").write_text("policy: {score: margin}")
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Example:\n\n  lit-cascade {name} {COMMANDS[name].example}\n" in text
    assert ("--data.help [CLASS]" in text) == (COMMANDS[name].model is not None)
    head = text.partition("Example:")[0]
    assert max(map(len, head.splitlines())) <= 80
    assert not re.search(r"Union|Optional|Literal|type:|null|list\[", head)
    forms = FORM.findall(head)
    groups = {"--policy", "--ray"}
    own = {f"--{one.name}" for one in fields(COMMANDS[name].options)} - groups
    own.discard(f"--{COMMANDS[name].words}")
    assert own <= {option for option, _ in forms}
    parser = parsing.parser_of(name, COMMANDS[name])
    for option, value in forms:
        if option in {"--help", "--print_config", "--debug", "--config"}:
            continue
        one, _, several = value.partition(" ")
        given = SAMPLES.get(one, one.strip("{}").split(",")[-1] or None)
        words = [option.replace("STAGE", "small")] + [given] * (2 if several else 1) * bool(value)
        if name == "import" and option != "--name":
            words += ["--name", "x"]
        read = parser.parse_args(parsing._resolve(words, COMMANDS[name]))
        if not value:
            assert read[option[2:]] is True


@pytest.mark.parametrize("name", COMMANDS)
def test_print_config_gives_a_config_that_the_command_takes(name, tmp_path):
    own = {
        "fit": ["--config", "digits_small.yaml"], "import": ["--name", "x"],
        "flops": ["resnet18"], "screen": ["--results", "x"],
        "check": ["--policy.score", "margin", "--records", "x"],
        "search": ["--records", "x", "--holdout", "30%"], "compare-scores": ["--records", "x"],
        "select": ["--config", "digits_pair.yaml", "--max_accuracy_drop", "0.5 %"],
        "benchmark": ["--config", "digits_pair.yaml", "--deferral_rates", "5%", "0.1"],
        "report": ["runs"], "serve": ["--config", "digits_pair.yaml", "--audit", "1%"],
        "push": ["me/x", "--folder", "shared", "--private"],
    }  # fmt: skip
    words = own.get(name, ["--config", "digits_pair.yaml"])
    printed = done(within(name, *words, "--print_config", cwd=tmp_path)).stdout
    config = yaml.safe_load(printed)
    shares = {
        "search": ("holdout", 0.3), "select": ("max_accuracy_drop", 0.005),
        "benchmark": ("deferral_rates", [0.05, 0.1]), "serve": ("audit", 0.01),
    }  # fmt: skip
    key, value = shares.get(name, ("overwrite", False))
    assert config[key] == value
    (tmp_path / "again.yaml").write_text(printed)
    again = done(within(name, "--config", "again.yaml", "--print_config", cwd=tmp_path)).stdout
    assert again == printed


def test_data_help_lists_the_classes_and_explains_one(tmp_path):
    listed = within("validate", "--data.help", cwd=tmp_path).stdout
    for name in ("DigitsData", "ImageData", "TextData", "GlueData", "Datasets"):
        assert f"  {name} " in listed
    for words in (["--data.help", "ImageData"], ["--data.help=ImageData"]):
        run = done(within("validate", *words, cwd=tmp_path))
        assert "--data.batch_size N     images per batch. (default: 256)" in run.stdout


def test_importing_the_package_loads_no_torch_and_the_core_no_lightning(tmp_path):
    heavy = ["lightning", "torchmetrics", "timm", "matplotlib", "transformers"]
    steps = (  # each may load what the ones before it may
        ("import lit_cascade, lit_cascade.cli", [*heavy, "torch", "yaml", "safetensors", "rich"]),
        (
            "from lit_cascade.core import calibration, curve, policy, scores",
            [*heavy, "safetensors", "rich"],
        ),
        ("import lit_cascade.analysis.curve", heavy[:4]),
        ("assert lit_cascade.cli.main(sys.argv[1:]) == 0", heavy[:4]),
    )
    program = "import sys\n" + "".join(
        f"{imports}\nprint([m for m in {banned} if m in sys.modules])\n"
        for imports, banned in steps
    )
    np.save(tmp_path / "logits.npy", np.eye(3))
    words = ["import", "--logits", "logits.npy", "--name", "net", "--flops", "1", "--out", "o"]
    run = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=tmp_path, env=variables({}), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert [line for line in run.stdout.splitlines() if line[:1] == "["] == ["[]"] * 4, run.stderr


def test_version_and_no_words(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lit-cascade 0.")
    assert main([]) == 0
    assert "commands:" in capsys.readouterr().out


def test_every_public_name_is_there():
    import lit_cascade

    for name in lit_cascade.__all__:
        assert getattr(lit_cascade, name) is not None
    assert set(lit_cascade.__all__) <= set(dir(lit_cascade))
    with pytest.raises(AttributeError, match="no attribute 'Cascde'"):
        _ = lit_cascade.Cascde


def test_an_interrupt_is_no_error_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    monkeypatch.setattr("lit_cascade.lit.cascade.LitCascade.validation_step", interrupted)
    assert main(["validate", "--config", "digits_pair.yaml"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_file_at_all(records, tmp_path, monkeypatch, capsys):
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    words = ["validate", "--records", *map(str, records), "--out", str(tmp_path / "o")]
    assert main(words) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_overwriting_takes_away_what_no_longer_holds(records, tmp_path):
    words = ["validate", "--records", *map(str, records), "--out", str(tmp_path)]
    assert main([*words, "--policy.temperatures.small", "2"]) == 0
    assert (tmp_path / "curve_uncalibrated.csv").is_file()
    assert main([*words, "--overwrite"]) == 0
    assert not (tmp_path / "curve_uncalibrated.csv").exists()


def test_records_are_announced_before_the_work(records, tmp_path, capsys):
    (tmp_path / "small.safetensors").write_text("mine")
    words = ["validate", "--records", *map(str, records), "--out", str(tmp_path)]
    assert main([*words, "--save_records"]) == 2
    assert "already holds small.safetensors" in capsys.readouterr().err
    assert (tmp_path / "small.safetensors").read_text() == "mine"


@pytest.mark.parametrize(("typed", "deferred"), [("-inf", 0.0), ("inf", 1.0), ("-.inf", 0.0)])
def test_infinite_thresholds_are_typed_as_they_are_printed(records, tmp_path, typed, deferred):
    words = ["validate", "--records", *map(str, records), "--out", str(tmp_path)]
    words += ["--config", "digits_pair.yaml", "--policy.thresholds.small", typed]
    assert main(words) == 0
    assert numbers(tmp_path)["policy"]["deferral_rate"] == deferred


def test_a_pair_that_hardly_saves_is_called_so(tmp_path, capsys):
    logits = torch.tensor([[0.1, 0.0], [0.2, 0.0], [0.3, 0.0], [0.4, 0.0]])
    labels = [1, 1, 1, 0]  # the first is right only where it is surest
    for name, values, flops in (("a", logits, 2.0), ("b", torch.eye(2)[labels], 10.0)):
        Record.from_arrays(name, values, labels, flops=flops).save(tmp_path / f"{name}.safetensors")
    pair = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    main(["validate", "--records", *pair, "--out", str(tmp_path / "o")])
    assert "FLOPs fall by 5.0 % only: it hardly pays" in capsys.readouterr().out


def test_fit_needs_no_calibration_split(tmp_path):
    config = {
        "model": {"name": "net", "network": {"class_path": "tests.toys.Net"}},
        "data": {
            "class_path": "lit_cascade.data.Datasets",
            "init_args": {"train": {"class_path": "tests.toys.Points"}},
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    }
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    run = lit_cascade("fit", "--config", "fit.yaml", "--out", ".", cwd=tmp_path)
    assert "net, trained on data" in done(run).stdout
    head = yaml.safe_load((tmp_path / "net.md").read_text().split("---")[1])
    assert list(head["samples"]) == ["train"]
