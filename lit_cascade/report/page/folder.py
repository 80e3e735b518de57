"""Reading the files of a results folder for the page."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.utilities.files import read_yaml, yaml_text
from lit_cascade.utilities.text import from_cell, printable

KINDS = {
    "select": "candidates.csv",
    "validate": "curve.csv",
    "search": "frontier.csv",
    "compare-scores": "scores.csv",
    "check": "check.json",
    "test": "test.json",
    "benchmark": "benchmark.json",
}
"""The file that tells that a folder holds results of a command."""
SAMPLES = "samples.json"
"""File of `validate --save_samples`: texts or images by the ids of their samples."""


@dataclass(frozen=True)
class Results:
    """The results of one command.

    Attributes:
        command: name of the command.
        folder: with its files.
    """

    command: str
    folder: Path

    def json(self, name: str = "summary.json") -> dict[str, Any]:
        """The content of a JSON file, with hidden characters of its texts escaped."""
        content = self._read(name, json.loads)
        if not isinstance(content, dict):
            raise self._unreadable(name, "expected an object")
        return _visible(content)  # type: ignore[no-any-return]

    def columns(self, name: str) -> dict[str, list[str]]:
        """The columns of a CSV file by name."""
        rows = self._read(name, lambda text: list(csv.reader(text.splitlines())))
        if len(rows) < 2 or len({len(row) for row in rows}) != 1:
            raise self._unreadable(name, "expected rows of the same length below a header")
        columns = zip(*rows[1:], strict=True)
        return {
            head: [printable(from_cell(cell)) for cell in column]
            for head, column in zip(rows[0], columns, strict=True)
        }

    def config(self, name: str) -> str:
        """A YAML file with its comment and without evidence, which is long; empty if there is none.

        Raises:
            UsageError: it is no YAML.
        """
        path = self.folder / name
        if not path.is_file():
            return ""
        content = read_yaml(path, "folders")
        if isinstance(policy := content.get("policy"), dict):
            policy.pop("evidence", None)
        comment = re.match(r"(?:# ?.*\n)*", path.read_text(encoding="utf-8"))
        lines = re.sub(r"(?m)^# ?", "", comment[0] if comment else "")
        return printable(yaml_text(content, lines))

    def _read(self, name: str, parse: Callable[[str], Any]) -> Any:
        try:
            return parse((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, csv.Error) as error:
            raise self._unreadable(name, getattr(error, "strerror", None) or str(error)) from error

    def _unreadable(self, name: str, reason: str) -> CascadeError:
        return CascadeError(f"{str(self.folder / name)!r} cannot be read: {reason}.")


def results_in(folder: Path) -> list[Results]:
    """The results in a folder, by the files that it has.

    Raises:
        UsageError: there are none.
    """
    found = [Results(name, folder) for name, file in KINDS.items() if (folder / file).is_file()]
    if not found:
        has = sorted(path.name for path in folder.iterdir())[:5] if folder.is_dir() else []
        raise UsageError(
            f"folders: {str(folder)!r} holds no results of {', '.join(KINDS)}: "
            f"expected one of {', '.join(KINDS.values())}, found {', '.join(has) or 'nothing'}."
        )
    return found


def _visible(value: Any) -> Any:
    """JSON with hidden characters of its texts escaped."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_visible(part) for part in value]
    if isinstance(value, Mapping):
        return {printable(key): _visible(part) for key, part in value.items()}
    return value
