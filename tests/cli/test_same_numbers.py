"""The same command in another process, folder and order of hashing writes the same bytes."""

import json
import subprocess
import sys

import yaml

from tests.cli.runs import done, finished, variables
from tests.cli.test_processes import files, toy

PAIR = ("--config", "digits_pair.yaml", "--trainer.accelerator", "cpu")
EPOCHS = ("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1")
RECORDS = ("recorded/small.safetensors", "recorded/large.safetensors")


def noisy(folder):
    """A config that trains on samples whose noise two workers draw, and stops early."""
    config = {
        "model": {"name": "net", "network": {"class_path": "tests.toys.Net"}},
        "data": {
            "class_path": "lit_cascade.data.Datasets",
            "init_args": {
                "train": toy("Noisy", n=64),
                "calibration": toy("Points", n=30),
                "batch_size": 8,
                "num_workers": 2,
            },
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 3, "enable_progress_bar": False},
    }
    (folder / "noisy.yaml").write_text(yaml.safe_dump(config))


COMMANDS = {
    "fitted": ("fit", "--config", "digits_small.yaml", *EPOCHS),
    "noisy": ("fit", "--config", "noisy.yaml", "--patience", "2", "--stop_on", "calibration"),
    "recorded": ("record", *PAIR, "--split", "calibration"),
    "calibrated": ("calibrate", "--records", *RECORDS, "--share", "0.5"),
    "selected": ("select", "--records", *RECORDS, "--max_accuracy_drop", "0.02"),
    "found": ("search", "--records", "recorded"),
    "answered": ("predict", *PAIR, "--gather", "2"),
}


def test_another_process_writes_the_same_bytes(tmp_path):
    commands = [[*command, "--out", out] for out, command in COMMANDS.items()]
    folders = tmp_path / "here", tmp_path / "there" / "deeper"
    for folder in folders:
        folder.mkdir(parents=True)
        noisy(folder)

    run = ["tests.cli.in_turn", json.dumps(commands)]
    env = {"SOURCE_DATE_EPOCH": 0, "OMP_NUM_THREADS": 1}
    seeded = variables(env | {"PYTHONHASHSEED": 7})  # of the order of sets
    with subprocess.Popen(
        [sys.executable, "-m", *run], cwd=folders[1], env=seeded, stdout=subprocess.PIPE, text=True
    ) as other:
        here = done(finished(*run, cwd=folders[0], **env)).stdout
        there = other.communicate()[0]
    assert other.returncode == 0
    assert here == there
    one, other = map(files, folders)
    assert {path.split("/")[0] for path in one} >= set(COMMANDS)
    assert one.keys() == other.keys()
    for path, content in one.items():
        assert content == other[path], path
