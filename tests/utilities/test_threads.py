"""Threads that share the cores, and how many a container is granted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lit_cascade.utilities import threads
from lit_cascade.utilities.threads import share_cores
from tests.cli.runs import variables

SHARE = """
import os, sys
from lit_cascade.cli import main
main(["validate", "--help"])
print("torch" in sys.modules, os.environ.get("GOMP_SPINCOUNT"), file=sys.stderr)
"""


def policy_of(**environment):
    """How threads wait after a command has started, without that torch was loaded."""
    given = dict.fromkeys(threads._HOW_TO_WAIT) | environment
    ran = subprocess.run(
        [sys.executable, "-c", SHARE], env=variables(given), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    torch, policy = ran.stderr.split()
    assert torch == "False"
    return policy


def test_threads_sleep_where_they_wait_long_unless_a_variable_says_otherwise():
    assert policy_of() == "1000"
    assert policy_of(GOMP_SPINCOUNT="300000") == "300000"
    assert policy_of(OMP_WAIT_POLICY="active") == "None"


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({"cpu.max": "200000 100000\n"}, "2"),
        ({"cpu.max": "150000 100000\n"}, "2"),
        ({"cpu.max": "50000 100000\n"}, "1"),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "3"),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "12800000 100000\n"}, None),  # more than there are
        ({}, None),
    ],
)
def test_no_more_threads_than_a_container_is_granted_cores(files, granted, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {}
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert share_cores()
    assert environment.get("OMP_NUM_THREADS") == granted
    environment["OMP_NUM_THREADS"] = "7"
    share_cores()
    assert environment["OMP_NUM_THREADS"] == "7"


def test_nothing_is_set_once_torch_is_loaded(monkeypatch):
    environment = {}
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.setitem(sys.modules, "torch", threads)
    assert not share_cores()
    assert not environment
