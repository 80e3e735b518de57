"""The C library's allocator, which on Linux gives memory back after each batch; loads no torch."""

from __future__ import annotations

import ctypes
import os

SWITCH = "LIT_CASCADE_MALLOC"
"""Environment variable; `default` leaves the allocator as it is."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST, _MOST_BEFORE = 2**31 - 1, 2**25
"""Largest threshold of mapping: an int, and in older versions of glibc 32 MiB."""
_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")


def keep_memory() -> bool:
    """Let this process keep the memory that it frees, for its next batch.

    By default glibc maps each large block anew and gives it back at once, so that every batch on
    a CPU touches fresh pages, which the kernel has to fill with zeros. The blocks of processes that
    are forked from this one are kept, too.

    Returns:
        Whether it was set: not without glibc, and not where `LIT_CASCADE_MALLOC=default` or a
        variable of glibc's own says otherwise.
    """
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or os.environ.get(SWITCH) == "default" or any(name in os.environ for name in _OWN):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 # musl and others have none
    except (OSError, TypeError, AttributeError):
        return False
    set_option = library.mallopt
    mapped = set_option(_MMAP_THRESHOLD, _MOST) or set_option(_MMAP_THRESHOLD, _MOST_BEFORE)
    return bool(mapped and set_option(_TRIM_THRESHOLD, _MOST))
