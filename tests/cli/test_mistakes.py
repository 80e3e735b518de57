"""What a user may get wrong: one clear message, the right exit code, nothing written."""

import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml

from lit_cascade import Record
from lit_cascade.cli import main
from tests.cli.runs import done, together, within

ROOT = Path(__file__).parents[2]
PAIR = ("validate", "--config", "digits_pair.yaml")


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    """Run a command that must fail in an empty folder, and return what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])

    def run(*words, code):
        if not list(tmp_path.iterdir()):
            (tmp_path / "policy.yaml").write_text("policy: {score: margin}")
        before = sorted(tmp_path.rglob("*"))
        assert main([str(word) for word in words]) == code
        captured = capsys.readouterr()
        before_message, *message = re.split(
            r"^lit-cascade \S+: error: ", captured.err, flags=re.MULTILINE
        )
        assert len(message) == 1
        message = [" ".join(message[0].split())]
        assert "error" not in before_message.lower()
        assert "Traceback" not in captured.err
        assert sorted(tmp_path.rglob("*")) == before
        return message[0]

    return run


def saved(folder, name, **changes):
    parts = {"logits": torch.eye(3).repeat(2, 1), "labels": [0, 1, 2] * 2, "flops": 8.0}
    path = folder / f"{name}.safetensors"
    Record.from_arrays(name, **(parts | changes)).save(path)
    return path


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("valdate",), 2, "'valdate' is unknown.*Did you mean 'validate'"),
        (("validate",), 2, "expected --config FILE or --records FILE ...; for example"),
        (("test",), 2, "expected --config FILE; for example"),
        (("check",), 2, "expected --policy FILE --records FILE .*; for example"),
        (("validate", "--confg", "digits_pair.yaml"), 2, "--confg.*Did you mean --config"),
        (
            ("predict", "--config", "policy.yaml"),
            2,
            "missing: --model.stages, --data, which a conf",
        ),
        (("validate", "--config"), 2, "--config: expected the path"),
        (("validate", "--records"), 2, "--records: expected one or more values"),
        (("validate", "--config", "nope.yaml"), 2, "no file 'nope.yaml'"),
        (("validate", "--config", "digit_pair.yaml"), 2, "Nearest: digits_pair.yaml, (\\S+, ){3}"),
        (("validate", "--config", "digits_small.yaml"), 2, "--model.network: there is no such"),
        ((*PAIR, "--policy.foo", "1"), 2, "--policy.foo: there is no.*--policy has: sc"),
        ((*PAIR, "--policy.scor", "margin"), 2, "--policy.scor: .*Did you mean --policy.score"),
        ((*PAIR, "--batch_size", "3"), 2, "--batch_size: there.*Did you mean --data.batch_size"),
        ((*PAIR, "--precision", "16"), 2, "--precision: .*Did you mean --trainer.precision"),
        ((*PAIR, "more"), 2, "the word 'more' belongs to no option"),
        ((*PAIR, "--policy.score", "foo"), 2, "max_softmax.*margin.*negative_entropy.*foo"),
        ((*PAIR, "--policy.thresholds.smal", "0.9"), 2, "'smal' is unknown; known are small"),
        ((*PAIR, "--policy.thresholds", "[0.9, 0.8]"), 2, "one number for each of small, got 2"),
        ((*PAIR, "--policy.thresholds", "[]"), 2, "one number for each of small, got 0"),
        ((*PAIR, "--policy.thresholds.small", ".nan"), 2, "NaN is no threshold"),
        ((*PAIR, "--policy.thresholds.small", "1.5"), 2, "1.5 is outside the range.*0 to 1"),
        ((*PAIR, "--policy.thresholds.small", "-0.5"), 2, "-0.5 is outside the range"),
        ((*PAIR, "--policy.temperatures.small", "0"), 2, "finite numbers above 0, got 0.0"),
        ((*PAIR, "--policy.temperatures.small", "-1"), 2, "finite numbers above 0, got -1.0"),
        ((*PAIR, "--policy.temperatures.big", "2"), 2, "'big' is unknown; known are small, large"),
        ((*PAIR, "--model.stages.smal.checkpoint", "x"), 2, "'smal' is unknown.*'small'"),
        ((*PAIR, "--model.stages.small.checkpoint", "x.pt"), 2, "no file 'x.pt'"),
        (
            (*PAIR, "--model.stages.small.checkpoint", "digits/large.safetensors"),
            1,
            "stage 'small'.*another architecture than Perceptron.*missing.*unknown.*shape",
        ),
        (
            (*PAIR, "--data.init_args.batchsize", "3"),
            2,
            "batchsize: DigitsData has no such.*batch_size",
        ),
        ((*PAIR, "--data.batch_size", "0"), 2, "--data.init_args.batch_size: expected at least 1"),
        ((*PAIR, "--data.batch_size", "few"), 2, "--data.batch_size: expected a whole number, got"),
        ((*PAIR, "--data", "DigitData"), 2, "--data: .*no class 'DigitData'. Did you mean DigitsD"),
        ((*PAIR, "--data", "tests.toys.Net"), 2, "--data: tests.toys.Net is no LightningDataMod"),
        (
            (*PAIR, "--data", "GlueData", "--data.task", "sst3"),
            2,
            "--data.init_args.task: 'sst3' i",
        ),
        ((*PAIR, "--trainer.foo", "3"), 2, "--trainer.foo: there is no such option"),
        ((*PAIR, "--trainer.precisio", "3"), 2, "no such option. Did you mean --trainer.precision"),
        ((*PAIR, "--trainer.precision", "17"), 2, "--trainer.precision: expected 64, .*, got '17'"),
        ((*PAIR, "--trainer.max_epochs", "a"), 2, "--trainer.max_epochs: expected a whole number"),
        ((*PAIR, "--trainer.max_epochs"), 2, "--trainer.max_epochs: expected a whole number"),
        ((*PAIR, "--trainer.accelerator", "gpuu"), 2, "--trainer.accelerator gpuu: You .*This mac"),
        ((*PAIR, "--trainer.devices", "9999", "--trainer.accelerator", "cpu"), 2, "9999 processes"),
        ((*PAIR, "--trainer.limit_val_batches", "-3"), 2, "--trainer.limit_val_batches -3"),
        (
            (*PAIR, "--trainer.logger", "MLFlowLogger"),
            2,
            "--trainer.logger: MLFlowLogger: .*mlflow",
        ),
        ((*PAIR, "--trainer.logger", "CSVLogger"), 2, "--trainer.logger: CSVLogger needs save_dir"),
        ((*PAIR, "--trainer.callbacks", "EarlyStoping"), 2, "Did you mean EarlyStopping"),
        (
            (*PAIR, "--model.stages.small.network.init_args.widths", "[-3]"),
            2,
            "--model.stages.small.network: Perceptron: RuntimeError: .*negative.*--debug shows",
        ),
        ((*PAIR, "--split", "tset"), 2, "'tset' is unknown; known are calibration, train, vali"),
        ((*PAIR, "--out", "/proc/nowhere"), 2, "--out: cannot write"),
        (("validate", "--records", "a.safetensors", "b.safetensors"), 2, "no file 'a.safetensors'"),
        (("test", "--config", "digits_pair.yaml", "--policy.thresholds", "null"), 2, "for small"),
        (
            ("calibrate", "--config", "digits_pair.yaml", "--stages", "smal"),
            2,
            "'smal' is unknown; known are small, large",
        ),
        (
            ("calibrate", "--config", "digits_pair.yaml", "--split", "validation"),
            1,
            "450 of the 450 samples of digits, split 'validation', are also in.*--allow_overlap",
        ),
        (("fit", "--config", "digits_pair.yaml"), 2, "--model.stages: there is no such option"),
        (
            ("fit", "--config", "digits_small.yaml", "--model.network.init_args.widths", "[a]"),
            2,
            "widths: expected a list of whole numbers, got 'a'",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*deterministic.*")
def test_a_mistake_is_one_clear_message(fails, words, code, says):
    message = fails(*words, code=code)
    assert re.search(says, message), message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [1", "not YAML"),
        ("- 1\n- 2\n", "expected a mapping"),
        ("", "holds no options"),
        ("\x00\x01", "cannot be read"),
        ("modl: 3\n", "modl"),
    ],
)
def test_a_config_that_is_none(fails, tmp_path, content, says):
    (tmp_path / "odd.yaml").write_text(content)
    assert says in fails("validate", "--config", "odd.yaml", code=2)


@pytest.mark.parametrize("key", ["checkpoint", "widths", "Perceptron", "digits/small"])
def test_a_misspelt_word_of_a_config_is_named(fails, tmp_path, key):
    text = (ROOT / "configs/digits_pair.yaml").read_text()
    (tmp_path / "typo.yaml").write_text(text.replace(key, f"{key}x", 1))
    assert f"{key.split('/')[-1]}x" in fails("validate", "--config", "typo.yaml", code=2)


def test_results_are_not_overwritten_unless_asked(fails, tmp_path):
    records = [saved(tmp_path, name, flops=flops) for name, flops in (("a", 1.0), ("b", 9.0))]
    (tmp_path / "curve.csv").write_text("mine")
    words = ("validate", "--records", *records, "--out", ".")
    assert "already holds curve.csv" in fails(*words, code=2)
    assert main([*map(str, words), "--overwrite"]) == 0
    assert (tmp_path / "curve.csv").read_text().startswith("threshold,")


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_is_no_folder(fails, tmp_path, out):
    (tmp_path / "file").write_text("")
    assert "'file' is a file" in fails(*PAIR, "--out", out, code=2)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"labels": [0, 1, 2, 0, 1, 1]}, 1, "differ in labels, first at position 5: 2 against 1"),
        ({"ids": [0, 1, 2, 3, 4, 9]}, 1, "differ in ids, first at position 5: 5 against 9"),
        ({"classes": ["0", "2", "1"]}, 1, "differ in class order, first at position 1"),
        ({"logits": torch.ones(6, 4)}, 1, "differ in class order, 3 against 4"),
        ({"logits": torch.ones(3, 3), "labels": [0, 1, 2]}, 1, "differ in ids, 6 against 3"),
        ({"name": "a"}, 2, "the name 'a' occurs twice"),
        ({"flops": 0.0}, 1, "costs nothing"),
    ],
)
def test_records_that_do_not_fit(fails, tmp_path, changes, code, says):
    changes = dict(changes)
    first = saved(tmp_path, "a")
    second = tmp_path / "b.safetensors"
    parts = {"logits": torch.eye(3).repeat(2, 1), "labels": [0, 1, 2] * 2, "flops": 80.0}
    Record.from_arrays(changes.pop("name", "b"), **(parts | changes)).save(second)
    assert says in fails("validate", "--records", first, second, code=code)


def test_one_record_is_no_cascade(fails, tmp_path):
    assert "at least 2 stages" in fails("validate", "--records", saved(tmp_path, "a"), code=2)


def test_a_pickle_is_no_record_and_is_not_run(fails, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / "b.safetensors").write_bytes(pickle.dumps(Bomb()))
    message = fails("validate", "--records", saved(tmp_path, "a"), "b.safetensors", code=1)
    assert "cannot be read as a record" in message


def test_a_pickled_checkpoint_is_not_run(fails, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"weight": Bomb()}, tmp_path / "evil.pt")
    message = fails(*PAIR, "--model.stages.small.checkpoint", "evil.pt", code=1)
    assert "cannot be read" in message


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1, 2], {"a": 3}])
def test_a_checkpoint_without_weights(fails, tmp_path, content):
    torch.save(content, tmp_path / "odd.pt")
    message = fails(*PAIR, "--model.stages.small.checkpoint", "odd.pt", code=1)
    assert "holds no weights" in message


@pytest.mark.parametrize("nested", [True, False])
def test_policy_is_a_file_and_later_words_win(tmp_path, nested):
    policy = {"score": "margin", "thresholds": {"small": float("-inf")}}
    content = {"policy": policy, "seed": 3} if nested else policy
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(content))
    words = ("--config", "digits_pair.yaml", "--policy", "p.yaml", "--print_config")
    read = yaml.safe_load(done(within("validate", *words, cwd=tmp_path)).stdout)
    assert read["policy"]["score"] == "margin"
    assert read["policy"]["thresholds"] == {"small": float("-inf")}
    later = ("--policy.thresholds.small", "0.5")
    read = yaml.safe_load(done(within("select", *words, *later, cwd=tmp_path)).stdout)
    assert read["policy"]["score"] == "margin"
    assert read["policy"]["thresholds"] == {"small": 0.5}


@pytest.mark.parametrize("command", ["validate", "select", "check", "test", "record"])
def test_policy_takes_no_other_file(fails, tmp_path, command):
    (tmp_path / "policy.yaml").write_text("policy: {scor: margin}")
    assert "Near: policy.yaml" in fails(command, "--policy", "polcy.yaml", code=2)
    assert "'scor' is unknown" in fails(command, "--policy=policy.yaml", code=2)
    assert "expected the policy.yaml" in fails(command, "--policy", code=2)


RAISES = """
from tests.toys import Net


class Broken(Net):
    def forward(self, batch):
        raise LookupError("no such weight")
"""


def test_an_error_of_a_network_is_told_with_its_place_and_debug_shows_the_traceback(tmp_path):
    (tmp_path / "broken.py").write_text(RAISES)
    stages = {name: {"network": {"class_path": net}} for name, net in
              (("a", "broken.Broken"), ("b", "tests.toys.Net"))}  # fmt: skip
    points = {"class_path": "tests.toys.Points"}
    data = {"class_path": "lit_cascade.data.Datasets", "init_args": {"validation": points}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({"model": {"stages": stages}, "data": data}))
    run = within("validate", "--config", "toy.yaml", cwd=tmp_path)
    told = [
        "lit-cascade validate: error: LookupError: no such weight (broken.py:7, in forward)",
        "--debug shows the traceback.",
    ]
    assert (run.returncode, run.stderr.splitlines()[-2:]) == (1, told)
    assert "Traceback" not in run.stderr
    run = within("--debug", "validate", "--config", "toy.yaml", cwd=tmp_path)
    assert (run.returncode, run.stderr.splitlines()[-2]) == (1, told[0])
    assert "Traceback" in run.stderr
    assert 'raise LookupError("no such weight")' in run.stderr


def test_an_overlap_is_refused_unless_allowed(fails, tmp_path, capsys):
    pair = [saved(tmp_path, name, flops=flops) for name, flops in (("a", 1.0), ("b", 9.0))]
    assert main(["calibrate", "--records", *map(str, pair), "--out", "cal"]) == 0
    words = ("validate", "--records", *pair, "--config", "cal/calibration.yaml", "--out", "o")
    message = fails(*words, code=1)
    assert "6 of these 6 samples are among those that the temperatures were fitted on" in message
    assert main([*map(str, words), "--allow_overlap"]) == 0
    assert "the figures are optimistic" in capsys.readouterr().out


def test_an_overlap_by_ids_of_one_source_is_refused_before_models_run(fails, tmp_path):
    evidence = {"source": "sklearn-digits", "split": "train", "ids": "0..1796"}
    policy = {"policy": {"evidence": {"temperatures": evidence}}}
    (tmp_path / "fitted.yaml").write_text(yaml.safe_dump(policy))
    message = fails(*PAIR, "--config", "fitted.yaml", code=1)
    assert "450 of these 450 samples" in message
    policy["policy"]["evidence"]["temperatures"]["ids"] = "nonsense"
    (tmp_path / "fitted.yaml").write_text(yaml.safe_dump(policy))
    assert "no list of ids" in fails(*PAIR, "--config", "fitted.yaml", code=1)


@pytest.mark.parametrize(
    ("data", "stages", "says"),
    [
        ({"n": 0}, {}, "no samples"),
        ({}, {"a": {"class_path": "tests.toys.BadNet"}}, "NaN or infinite logits"),
        (
            {},
            {"b": {"class_path": "tests.toys.Net", "init_args": {"classes": 4, "width": 9}}},
            "a has 3, b has 4",
        ),
    ],
)
def test_models_and_data_that_do_not_fit(fails, tmp_path, data, stages, says):
    nets = {"a": {"class_path": "tests.toys.Net"}, "b": {"class_path": "tests.toys.Net"}} | stages
    config = {
        "model": {"stages": {name: {"network": net} for name, net in nets.items()}},
        "data": {
            "class_path": "lit_cascade.data.Datasets",
            "init_args": {"validation": {"class_path": "tests.toys.Points", "init_args": data}},
        },
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config))
    assert says in fails("validate", "--config", "toy.yaml", "--out", "o", code=1)


def test_a_wrong_call_is_said_once_by_several_processes(tmp_path):
    words = [*PAIR, "--split", "tset", "--trainer.accelerator", "cpu"]
    run = together(2, words, cwd=tmp_path)
    assert run.ended[0][0] == [2, 2]
    assert run.stderr.count("'tset' is unknown") == 1
    assert "Traceback" not in run.stderr
