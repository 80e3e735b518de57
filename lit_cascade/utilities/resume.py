"""Unfinished runs: a folder with the plan of a run, so that only the same run resumes it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lit_cascade.errors import UsageError
from lit_cascade.utilities.files import write_atomically

_WORKERS = re.compile(r"\bdata\.(config\.)?init_args\.num_workers$")


class UnfinishedRun:
    """Folder of a run in progress, inside the folder of its results.

    While it holds a plan the run is unfinished, and any results beside it are this run's.

    Args:
        folder: need not exist; its parent is the folder that `--out` names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plan = folder / "plan.json"

    def __bool__(self) -> bool:
        """Whether there is an unfinished run."""
        return self._plan.exists()

    def start(self, plan: Mapping[str, Any]) -> None:
        """Make the folder, empty except for the plan. Does nothing if the run has started already.

        Args:
            plan: everything that the results depend on, plain JSON.

        Raises:
            UsageError: the folder cannot be written to.
            CascadeError: the disk is full.
        """
        if not self:
            self.remove()  # files without a plan are remains of a finished run
            text = json.dumps(plan, default=str, indent=2, sort_keys=True) + "\n"
            write_atomically(self._plan, text.encode())

    def resumes(self, plan: Mapping[str, Any]) -> bool:
        """Whether there is an unfinished run to resume with this plan.

        Raises:
            UsageError: there is one with another plan, or its plan cannot be read.
        """
        if not self:
            return False
        try:
            earlier = dict(json.loads(self._plan.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"--out: {str(self._plan)!r} is damaged; remove {str(self.folder)!r}."
            ) from error
        difference = first_difference(earlier, json.loads(json.dumps(plan, default=str)))
        if difference is not None:
            key, before, now = difference
            raise UsageError(
                f"--out: {str(self.folder.parent)!r} holds an interrupted run with another "
                f"{key}: {before}, now {now}. Choose another folder, or add --overwrite to start "
                "anew."
            )
        return True

    def remove(self) -> None:
        """Remove the folder. The plan goes first, so that no interruption leaves half a run."""
        with suppress(NotADirectoryError):  # a file in its place is reported by `start`
            self._plan.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def first_difference(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> tuple[str, str, str] | None:
    """Key, with dots between levels, and values of the first difference of plain JSON, or None.

    The number of processes that load the data is not compared: it changes no result.

    Examples:
        >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}})
        ('a.b', '1', '2')
    """
    for name in dict.fromkeys([*one, *other]):
        key, mine, theirs = f"{prefix}{name}", one.get(name), other.get(name)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            difference = first_difference(mine, theirs, f"{key}.")
            if difference is not None:
                return difference
        elif mine != theirs and not _WORKERS.search(key):
            return key, _shortened(mine), _shortened(theirs)
    return None


def _shortened(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
