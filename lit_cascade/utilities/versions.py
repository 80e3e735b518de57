"""What made a result: library versions and the date."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
from typing import Any

from lit_cascade import __version__

__all__ = ["library_versions", "run_info"]


def library_versions() -> dict[str, str]:
    """Versions of this package and of what computes the logits."""
    others = {name: importlib.metadata.version(name) for name in ("torch", "lightning")}
    return {"lit-cascade": __version__, **others}  # its own also where it is not installed


def run_info() -> dict[str, Any]:
    """Library versions and the date, for a record's `info`; SOURCE_DATE_EPOCH sets the date."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = dt.datetime.now(dt.UTC)
    date = dt.datetime.fromtimestamp(int(epoch), dt.UTC) if epoch else now
    return {"versions": library_versions(), "date": date.date().isoformat()}
