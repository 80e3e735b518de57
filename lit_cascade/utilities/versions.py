"""Library versions and the date of a result."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import time
from typing import Any

from lit_cascade import __version__


def library_versions() -> dict[str, str]:
    """Versions of this package, torch and lightning."""
    others = {name: importlib.metadata.version(name) for name in ("torch", "lightning")}
    return {"lit-cascade": __version__, **others}  # not by metadata: it may not be installed


def run_info() -> dict[str, Any]:
    """Library versions and the date, for a record's `info`; SOURCE_DATE_EPOCH sets the date."""
    epoch = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = dt.datetime.fromtimestamp(epoch, dt.UTC).date()
    return {"versions": library_versions(), "date": date.isoformat()}
