"""Threads of torch that share the cores with other processes; loads no torch."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

_SPINS, _COUNT = "GOMP_SPINCOUNT", "OMP_NUM_THREADS"
_HOW_TO_WAIT = ("OMP_WAIT_POLICY", _SPINS, "KMP_BLOCKTIME")
_SHORT = "1000"
"""Turns of the loop: some microseconds, in which the next operation mostly comes. Threads that
sleep at once have to be woken for each operation."""
_CGROUP = Path("/sys/fs/cgroup")


def share_cores() -> bool:
    """Let torch's threads sleep where they wait long, and start as many as cores are granted.

    By default the threads of OpenMP wait for each other in a loop that keeps their cores busy for
    milliseconds, after each operation. Where other processes use the cores, the loop takes the
    time of the very thread that is waited for. OpenMP also counts the cores of the machine, not
    those that a container may use. Both are set by variables of the environment, which OpenMP reads
    when torch is loaded, and which processes that are started inherit.

    Returns:
        Whether variables could be set: not once torch is loaded. Variables of the user's stay as
        they are: `OMP_NUM_THREADS`, and of `OMP_WAIT_POLICY`, `GOMP_SPINCOUNT` and `KMP_BLOCKTIME`
        any.
    """
    if "torch" in sys.modules:
        return False
    if not any(name in os.environ for name in _HOW_TO_WAIT):
        os.environ[_SPINS] = _SHORT
    granted = _granted_cores()
    if granted is not None and granted < (os.cpu_count() or 1):
        os.environ.setdefault(_COUNT, str(granted))
    return True


def _granted_cores() -> int | None:
    """Cores that a quota of the Linux kernel grants to this container; None without one."""
    # as loky counts them: version 2 of cgroups has one file, version 1 two
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((_CGROUP / name).read_text() for name in names).split()
            cores = int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
            continue
        if cores > 0:  # -1 is no quota
            return math.ceil(cores)
    return None
