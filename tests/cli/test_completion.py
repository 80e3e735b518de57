"""Completion of the command line by the script that it prints, in bash itself."""

import inspect
import shutil
import subprocess
import sys

import pytest

from lit_cascade import lit
from lit_cascade.cli import COMMANDS, main
from lit_cascade.cli.completion import OFTEN
from tests.cli.runs import variables

BASH = shutil.which("bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The script, by a process that loads no torch."""
    program = (
        "import sys\nfrom lit_cascade.cli import main\n"
        "code = main(['--print_completion', 'bash'])\n"
        "sys.exit(code or ('torch' in sys.modules and 'it loads torch'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env=variables({}), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    path = tmp_path_factory.mktemp("completion") / "lit-cascade.bash"
    path.write_text(run.stdout)
    return path


def completed(script, folder, *words):
    """What bash offers for the last word, which may be empty."""
    array = " ".join(f"'{word}'" for word in ("lit-cascade", *words))
    program = f"""
        source {script}
        COMP_WORDS=({array}) COMP_CWORD={len(words)} COMP_LINE="{array}" COMP_POINT=999
        _shtab_lit_cascade lit-cascade '{words[-1]}' x 2>/dev/null
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    run = subprocess.run(
        [BASH, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    return run.stdout.split()


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_bash_completes_commands_options_values_and_configs(script, tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "a.safetensors").write_text("")
    (tmp_path / "folder").mkdir()
    at = tmp_path
    assert set(completed(script, at, "")) >= set(COMMANDS)
    assert completed(script, at, "vali") == ["validate"]
    assert set(completed(script, at, "validate", "--s")) == {
        "--split",
        "--save_records",
        "--save_samples",
    }
    assert "--policy.thresholds" in completed(script, at, "test", "--policy.th")
    assert completed(script, at, "validate", "--policy.score", "neg") == ["negative_entropy"]
    assert completed(script, at, "validate", "--config", "digits_p") == ["digits_pair.yaml"]
    assert "mine.yaml" in completed(script, at, "validate", "--config", "m")
    assert "glue/sst2_pair.yaml" in completed(script, at, "select", "-c", "glue/sst2")
    assert "a.safetensors" in completed(script, at, "validate", "--records", "a")
    assert completed(script, at, "validate", "--out", "f") == ["folder"]
    assert completed(script, at, "fit", "--trainer.acc") == ["--trainer.accelerator"]
    assert completed(script, at, "test", "--data.help", "Im") == ["ImageData"]


def test_zsh_has_a_script_too(capsys):
    assert main(["--print_completion=zsh"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#compdef lit-cascade")
    assert "digits_pair.yaml" in text


def test_what_cannot_be_completed_is_said(capsys, monkeypatch):
    for words in (["--print_completion", "fish"], ["--print_completion"]):
        assert main(words) == 2
        assert "known are bash, zsh" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print_completion", "bash"]) == 2
    assert "pip install 'lit-cascade[completion]'" in capsys.readouterr().err


def test_the_options_that_are_listed_by_hand_exist():
    from lit_cascade import data

    trainer = inspect.signature(lit.CascadeTrainer).parameters
    images = inspect.signature(data.ImageData).parameters
    for name, values in OFTEN.items():
        of, _, option = name.partition(".")
        assert not option or option in (trainer if of == "trainer" else images)
        if name == "data":
            assert set(values) <= set(data.__all__)
