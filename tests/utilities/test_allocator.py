"""Memory that a command keeps for its next batch, measured in page faults."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.runs import done, variables, within
from tests.forks import ROOT

TOUCH = """
import ctypes, resource, sys
from lit_cascade.utilities.allocator import keep_memory
print(keep_memory())
free, malloc = ctypes.CDLL(None).free, ctypes.CDLL(None).malloc
free.argtypes, malloc.restype = [ctypes.c_void_p], ctypes.c_void_p
for k in range(10):
    if k == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print("torch" in sys.modules)
"""


def glibc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (AttributeError, ValueError):
        return False


def run(**environment):
    """Return whether it was set, and the page faults of nine blocks of 64 MiB after a first."""
    ran = subprocess.run(
        [sys.executable, "-c", TOUCH], env=variables(environment), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    was_set, faults, torch = ran.stdout.split()
    assert torch == "False"
    return was_set == "True", int(faults)


@pytest.mark.skipif(not glibc(), reason="another C library")
def test_blocks_are_kept_unless_a_variable_says_otherwise():
    pages = 9 * 2**26 // os.sysconf("SC_PAGE_SIZE")
    was_set, faults = run()
    assert was_set
    assert faults < pages / 50
    for given in (
        {"LIT_CASCADE_MALLOC": "default"},
        {"MALLOC_TRIM_THRESHOLD_": 131072},
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"},
    ):
        assert run(**given)[0] is False
    assert run(LIT_CASCADE_MALLOC="default")[1] > pages / 2


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("lightning", ["test", "--config", "digits_pair.yaml"]),
        ("search", ["search", "--records", f"{ROOT}/checkpoints/glue/rte"]),
    ],
)
def test_commands_that_take_blocks_of_the_same_size_again_set_it(
    tmp_path, monkeypatch, module, words
):
    calls = []
    monkeypatch.setattr(f"lit_cascade.cli.{module}.keep_memory", lambda: calls.append(1))
    done(within(*words, "--quiet", "--out", "o", cwd=tmp_path))
    assert calls == [1]
