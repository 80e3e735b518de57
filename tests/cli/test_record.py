"""`record`: a zoo in a folder, one model at a time, whatever interrupts it."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from lit_cascade import Record
from lit_cascade.cli import main
from tests.cli.runs import done, killed_once, lit_cascade, together
from tests.toys import Net, Points

ROOT = Path(__file__).parents[2]
NAMES = ("wide", "narrow", "middle")


def net(kind="Net", **arguments):
    return {"network": {"class_path": f"tests.toys.{kind}", "init_args": arguments}}


def zoo(**changes):
    """A config of three models, not in order of cost, with some of its parts changed."""
    stages = {
        "wide": net(width=16, seed=1),
        "narrow": net("Waiting", width=2, seed=2),
        "middle": net(width=8, seed=3),
    }
    points = {"class_path": "tests.toys.Points", "init_args": changes.pop("points", {})}
    splits = dict.fromkeys(changes.pop("splits", ("validation",)), points)
    arguments = splits | {"batch_size": 4, "name": "points"} | changes.pop("data", {})
    return {
        "model": {"stages": stages | changes.pop("stages", {})},
        "data": {"class_path": "lit_cascade.data.Datasets", "init_args": arguments},
        "trainer": {"accelerator": "cpu"},
    } | changes


@pytest.fixture
def record(tmp_path, monkeypatch, capsys):
    """Run `record` in this process on a config, and return its exit code and what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])

    def run(*words, config=None, code=0):
        (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(config or zoo(), sort_keys=False))
        assert main(["record", "--config", "zoo.yaml", *map(str, words)]) == code
        return capsys.readouterr()

    return run


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def loaded(name, folder="o"):
    return Record.load(f"{folder}/{name}.safetensors")


def test_each_model_gets_a_record_of_what_it_says(record):
    said = record("--out", "o")
    assert set(files("o")) == {f"{name}.safetensors" for name in NAMES}
    for name, width, seed in (("wide", 16, 1), ("narrow", 2, 2), ("middle", 8, 3)):
        found, network = loaded(name), Net(width, seed)
        logits = network(Points(21).x).detach()
        assert found.logits.dtype == torch.float16
        torch.testing.assert_close(found.logits.float(), logits, rtol=1e-3, atol=1e-3)
        assert torch.equal(found.labels, Points(21).y)
        assert found.ids.tolist() == list(range(21))
        assert found.cost().tolist() == [2.0 * (2 * width + 3 * width)] * 21
        assert found.classes == ("cat", "dog", "owl")
        assert found.parameters == sum(p.numel() for p in network.parameters())
        accuracy = (found.logits.argmax(dim=1) == found.labels).double().mean()
        assert re.search(rf"{name} .* {100 * accuracy:.2f} %", said.out)
    assert [line for line in said.err.splitlines() if line.startswith("[")] == [
        "[1/3] wide", "[2/3] narrow", "[3/3] middle",
    ]  # fmt: skip
    for text in ("Records of points, split 'validation': 21 samples", "MACs", "recorded"):
        assert text in said.out
    assert "it/s" not in said.out


def test_a_record_knows_how_to_build_its_model_and_data(record):
    record("--out", "o", "--only", "wide")
    found = loaded("wide")
    assert found.model["config"] == {
        **net(width=16, seed=1, classes=3), "checkpoint": None, "classes": None,
    }  # fmt: skip
    data = found.data["config"]
    assert data["class_path"] == "lit_cascade.data.Datasets"
    assert data["init_args"]["batch_size"] == 4
    assert data["init_args"]["validation"]["class_path"] == "tests.toys.Points"
    assert found.info["precision"] == "32-true"
    assert found.info["batch_size"] == 4
    config = {
        "model": {"stages": {"again": found.model["config"]}}, "data": found.data["config"],
        "trainer": {"accelerator": "cpu"},
    }  # fmt: skip
    record("--out", "again", config=config)
    assert torch.equal(loaded("again", "again").logits, found.logits)


def test_the_digits_are_recorded_as_validate_sees_them(records, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    words = ["record", "--config", "digits_pair.yaml", "--dtype", "float32"]
    assert main(words) == 0
    for path in records:
        there, here = Record.load(path), loaded(path.stem, "runs/record-1")
        assert torch.equal(there.logits, here.logits)
        assert there.model == here.model
        assert there.data == here.data
    shown = capsys.readouterr().out
    for text in ("small", "99.11 %", "18.9 k", "9.47 k", "9.74 k", "Records in runs/record-1."):
        assert text in shown


def test_one_model_is_in_memory_at_a_time(record):
    from tests.toys import Counted

    stages = {f"net{k}": net("Counted", width=k + 2, seed=k) for k in range(6)}
    config = zoo()
    config["model"]["stages"] = stages
    Counted.alive = Counted.most = 0
    record("--out", "o", config=config)
    record("--out", "o", config=config)  # and while kept records are compared
    assert Counted.most == 1
    assert len(files("o")) == 6


def test_float32_keeps_every_digit(record):
    record("--out", "o", "--dtype", "float32", "--only", "wide")
    found, expected = loaded("wide"), Net(16, 1)(Points(21).x).detach()
    torch.testing.assert_close(found.logits, expected)
    assert found.logits.dtype == torch.float32


def test_logits_that_float16_cannot_hold_are_not_recorded_and_the_others_are(record):
    config = zoo(stages={"narrow": net("Huge", width=2)})
    said = record("--out", "o", config=config, code=1)
    assert re.search("'narrow': float16 holds logits up to 65504.*--dtype float32", said.err)
    assert "1 of 3 models was not recorded" in said.err
    assert set(files("o")) == {"wide.safetensors", "middle.safetensors"}
    assert "middle" in said.out
    record("--out", "o2", "--dtype", "float32", config=config)
    assert float(loaded("narrow", "o2").logits.abs().max()) > 65504


def test_only_some_models(record):
    record("--out", "o", "--only", "middle", "wide")
    assert set(files("o")) == {"middle.safetensors", "wide.safetensors"}
    said = record("--out", "o2", "--only", "midle", code=2)
    assert "'midle' is unknown; known are wide, narrow, middle. Did you mean 'middle'" in said.err
    assert not Path("o2").exists()


@pytest.mark.parametrize("split", ["calibration", "test", "train"])
def test_any_split_that_the_data_have(record, split):
    config = zoo(splits=(split,), points={"n": 9})
    record("--out", "o", "--split", split, "--only", "wide", config=config)
    assert loaded("wide").data["split"] == split
    assert len(loaded("wide")) == 9
    said = record("--out", "o2", config=config, code=2)
    assert f"'validation' is unknown; known are {split}" in said.err


def test_the_same_command_again_keeps_what_is_there(record):
    record("--out", "o")
    before = {path: path.stat().st_mtime_ns for path in Path("o").iterdir()}
    said = record("--out", "o")
    assert {path: path.stat().st_mtime_ns for path in Path("o").iterdir()} == before
    assert said.out.count(" kept") == 3
    assert "[2/3] narrow (kept)" in said.err
    assert "3 of 3 were there already" in said.out


def test_a_model_in_another_precision_is_still_the_same_model(record):
    double = ("--only", "wide", "--trainer.precision", "64-true")
    record("--out", "o", *double)
    assert record("--out", "o", *double).out.count(" kept") == 1
    record("--out", "single", "--only", "wide")
    assert loaded("wide").model == loaded("wide", "single").model


def test_a_limit_of_batches_is_told_and_kept(record):
    limit = ("--trainer.limit_val_batches", "2")
    said = record("--out", "o", *limit)
    assert "only 8 of 21 samples of the split were read" in said.out
    assert len(loaded("wide")) == 8
    assert record("--out", "o", *limit).out.count(" kept") == 3
    said = record("--out", "o", code=2)
    assert 'its data.limited_to is "8 of 21 samples", and here it is not given' in said.err


OTHERS = {
    "weights": (zoo(stages={"wide": net(width=16, seed=9)}), (), "model.weights"),
    "class": (zoo(stages={"wide": net("Waiting", width=16, seed=1)}), (), "model.class"),
    "classes": (
        zoo(stages={"wide": net(width=16, seed=1) | {"classes": ["cat", "dog", "owl"]}}),
        (),
        "model.config.classes is not given, and here it is",
    ),
    "data": (zoo(data={"name": "other"}), (), "data.name"),
    "samples": (zoo(points={"n": 20}), (), "data.config.init_args.validation"),
    "batch size": (zoo(data={"batch_size": 8}), (), "data.config.init_args.batch_size"),
    "split": (zoo(splits=("validation", "test")), ("--split", "test"), "data.split"),
    "dtype": (zoo(), ("--dtype", "float32"), 'dtype is "float16", and here it is "float32"'),
    "precision": (zoo(), ("--trainer.precision", "64-true"), "precision is .32-true"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_recording_is_refused_before_any_work_unless_overwritten(record, what):
    config, words, says = OTHERS[what]
    record("--out", "o", "--only", "wide")
    before = files("o")
    said = record("--out", "o", *words, config=config, code=2)
    assert re.search(rf"'o/wide.safetensors' is not a record of this run.*its {says}", said.err)
    assert "add --overwrite to replace it" in said.err
    assert files("o") == before
    if what in {"weights", "dtype"}:
        said = record("--out", "o", "--overwrite", *words, config=config)
        assert " kept" not in said.out
        assert files("o")["wide.safetensors"] != before["wide.safetensors"]


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_a_damaged_file_is_refused_before_any_work_unless_overwritten(record, content):
    record("--out", "o")
    path, whole = Path("o/middle.safetensors"), files("o")
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    said = record("--out", "o", code=2)
    assert "'o/middle.safetensors' is not a record of this run" in said.err
    assert "cannot be read as a record" in said.err
    said = record("--out", "o", "--overwrite")
    assert said.out.count(" kept") == 2
    assert files("o") == whole


def test_a_record_from_elsewhere_is_refused(record):
    Record.from_arrays("wide", score=[1.0], correct=[1], flops=1).save("o/wide.safetensors")
    assert "its dtype is" in record("--out", "o", code=2).err


def test_a_day_between_interruption_and_resumption_leaves_no_trace(record, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    record("--out", "o")
    whole = files("o")
    Path("o/narrow.safetensors").unlink()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    record("--out", "o")
    assert files("o") == whole
    assert loaded("narrow").info["date"] == "1970-01-01"


def test_the_order_of_models_changes_no_random_weights(record):
    unseeded = {
        "network": {
            "class_path": "lit_cascade.models.Perceptron",
            "init_args": {"inputs": 2, "widths": [3], "classes": 3},
        }
    }
    config = zoo()
    config["model"]["stages"] = {"a": unseeded, "b": unseeded}
    record("--out", "o", config=config)
    record("--out", "alone", "--only", "b", config=config)
    assert files("o")["b.safetensors"] == files("alone")["b.safetensors"]


def test_a_killed_run_is_resumed_to_the_same_bytes(record):
    record("--out", "whole")
    words = ("record", "--config", "zoo.yaml", "--out", "o")
    # at work on the second, which never answers
    killed_once(Path("o/wide.safetensors").is_file, *words, cwd=Path.cwd(), WAITING=1)
    half, other = Path("o/.narrow.safetensors.abcd_123"), Path("o/.other.safetensors.abcd_123")
    for left in (half, other):
        left.write_bytes(b"half a reco")
    said = record("--out", "o")
    assert said.out.count(" kept") == 1
    assert not half.exists()
    other.unlink()  # which is not of this run
    assert files("o") == files("whole")


def test_an_interrupt_keeps_what_is_done(record, monkeypatch):
    from tests.toys import Waiting

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Waiting, "forward", interrupted)
    said = record("--out", "o", code=130)
    assert "interrupted" in said.err
    assert set(files("o")) == {"wide.safetensors"}


def test_several_processes_write_the_bytes_of_one(tmp_path):
    # convolutions: their last bits depend on how many threads they get
    words = ("record", "--config", "digits_pair.yaml", "--trainer.accelerator", "cpu")
    done(lit_cascade(*words, "--out", "one", cwd=tmp_path, OMP_NUM_THREADS=None))
    (tmp_path / "two").mkdir()
    kept = "small.safetensors"
    (tmp_path / "two" / kept).write_bytes((tmp_path / "one" / kept).read_bytes())
    run = done(
        lit_cascade(
            *words, "--out", "two", "--trainer.devices", "2", "--trainer.strategy", "ddp",
            cwd=tmp_path, OMP_NUM_THREADS=None,
        )
    )  # fmt: skip
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert run.stdout.count(" kept") == 1
    for line in ("Recording into two", "[1/2] small (kept)", "[2/2] large"):
        assert run.stderr.count(line) == 1


def test_a_model_that_fails_on_the_main_process_is_passed_over_by_all(record, tmp_path):
    config = zoo(stages={"wide": net("Huge", width=2)})
    (tmp_path / "huge.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run = together(2, ["record", "--config", "huge.yaml", "--out", "o"], cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.count("--dtype float32") == 1
    assert "Traceback" not in run.stderr
    assert sorted(path.stem for path in tmp_path.glob("o/*")) == ["middle", "narrow"]


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ({}, "model.stages: expected at least 1 model"),
        ({"a/b": net()}, "'a/b' cannot name a file"),
        ({"a": net(wide=3)}, "wide: Net has no such option. Did you mean width"),
        ({"a": net() | {"checkpoint": "none.pt"}}, "no file 'none.pt'"),
    ],
)
def test_a_zoo_that_is_none(record, stages, says):
    config = zoo()
    config["model"]["stages"] = stages
    assert says in record("--out", "o", config=config, code=2).err
    assert not Path("o").exists()


def test_a_model_of_other_classes_than_the_data_is_named(record):
    config = zoo(stages={"narrow": net(width=2) | {"classes": ["dog", "cat", "emu"]}})
    said = record("--out", "o", config=config, code=1)
    assert "the classes of stage 'narrow' and the data cannot be aligned" in said.err
