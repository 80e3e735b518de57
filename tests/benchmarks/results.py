"""Options that the benchmarks share, and the file that they write."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any


def options_parser(documentation: str | None) -> ArgumentParser:
    """A parser with the first line of a module's docstring as description, and `--out`."""
    parser = ArgumentParser(description=(documentation or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    return parser


def write_results(path: Path | None, content: Any) -> None:
    """Write results as JSON where a file is asked for."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
