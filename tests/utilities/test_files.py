"""Files that are written whole or not at all."""

import errno
from pathlib import Path

import pytest
import yaml

from lit_cascade import CascadeError, UsageError
from lit_cascade.utilities.files import (
    find_bundled,
    load_yaml,
    open_atomically,
    read_yaml,
    remove_temporary_files,
    write_atomically,
    yaml_text,
)

ROOT = Path(__file__).parents[2]


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(error):
        with open_atomically(path, tmp_path) as file:
            file.write(b"half")
            assert path.read_bytes() == b"old"
            if error is not None:
                raise error

    for error, kind in (
        (OSError(errno.ENOSPC, "No space"), CascadeError),
        (OSError(errno.EACCES, "Denied"), UsageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):
        with pytest.raises(kind):
            write(error)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    write(None)
    assert path.read_bytes() == b"half"
    mine = [tmp_path / name for name in (".file.abcd_123", ".files.abcd_123", ".file.abc")]
    for one in mine:
        one.write_bytes(b"")
    remove_temporary_files(tmp_path, ["file"])
    assert sorted(tmp_path.iterdir()) == sorted([path, *mine[1:]])


@pytest.mark.parametrize("name", ["x" * 255, "猫" * 85])
def test_a_file_may_have_the_longest_name_that_there_is(tmp_path, name):
    path = tmp_path / name
    write_atomically(path, b"1")
    with open_atomically(path, tmp_path) as file:
        assert Path(file.name).name != name
    assert path.read_bytes() == b""
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_temporary_files_of_the_longest_names_are_known(tmp_path):
    name = "x" * 255
    (tmp_path / f".{name[:245]}.abcdefgh").write_text("")
    (tmp_path / f".{name[:244]}.abcdefgh").write_text("")
    remove_temporary_files(tmp_path, [name])
    assert [one.name for one in tmp_path.iterdir()] == [f".{name[:244]}.abcdefgh"]


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "its aliases stand for "),
        ("a: &a\n  b: [1, *a]\n", "an alias refers to what it is part of, in line 1"),
        ("a: {b: &c {<<: *c}}\n", "an alias refers to what it is part of, in line 1"),
        ("[" * 5000, "it is nested too deeply"),
        ("a: 2024-13-01\n", "month must be in 1..12"),
    ],
)
def test_yaml_that_would_never_end_is_refused(tmp_path, text, says):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"--config: '.*config.yaml' cannot be read: {says}"):
        read_yaml(path, "--config")


def test_yaml_may_use_aliases(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("base: &b {x: 1, y: [2]}\none: {<<: *b, x: 3}\ntwo: *b\n")
    both = {"x": 1, "y": [2]}
    assert read_yaml(path, "c") == {"base": both, "one": {"x": 3, "y": [2]}, "two": both}


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/results/*/*.yaml")), ids=lambda p: p.name)
def test_yaml_is_that_of_the_plain_library(path):
    content = load_yaml(path.read_text())
    plain = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    assert yaml_text(content, "above") == "# above\n" + plain


def test_a_missing_checkpoint_names_near_files_and_no_far_ones():
    with pytest.raises(UsageError, match=r"Nearest: digits/small\.safetensors") as near:
        find_bundled("digits/smal.safetensors", "checkpoints", "checkpoint")
    assert "imagenet/" not in str(near.value)
    with pytest.raises(UsageError, match=r"among the bundled checkpoints\.$"):
        find_bundled("mpnet.safetensors", "checkpoints", "checkpoint")
