"""Work that was begun and not finished, and what it depends on: only the same goes on with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lit_cascade.errors import UsageError
from lit_cascade.utilities.files import write_atomically

__all__ = ["Unfinished"]

_PLAN = "plan.json"


class Unfinished:
    """A folder for work that is under way, in the folder where its results will be.

    As long as it is there the work is not finished, whatever results there are: they are its own.

    Args:
        folder: need not exist; its parent is what `--out` names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def _plan(self) -> Path:
        return self.folder / _PLAN

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self._plan.exists()

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Make the folder, empty but for the plan; does nothing where the work was begun already.

        Args:
            plan: what the results depend on, plain JSON.

        Raises:
            UsageError: the place cannot be written to.
            CascadeError: the disk is full.
        """
        if not self:
            self.remove()  # what is there without a plan is left of work that was finished
            text = json.dumps(plan, default=str, indent=2, sort_keys=True) + "\n"
            write_atomically(self._plan, text.encode())

    def begun(self, plan: Mapping[str, Any]) -> bool:
        """Whether an earlier run with the same plan has begun it.

        Raises:
            UsageError: the earlier run had another plan.
        """
        if not self:
            return False
        wanted = json.loads(json.dumps(plan, default=str))
        try:
            earlier = dict(json.loads(self._plan.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"--out: {str(self._plan)!r} is damaged; remove {str(self.folder)!r}."
            ) from error
        differ = _difference(earlier, wanted)
        if differ is not None:
            key, before, now = differ
            raise UsageError(
                f"--out: {str(self.folder.parent)!r} holds an interrupted run with another {key}: "
                f"{_short(before)}, now {_short(now)}. Choose another folder, or add --overwrite "
                "to start anew."
            )
        return True

    def remove(self) -> None:
        """Forget it: it is finished, or is to start anew. The plan goes first, and with it all."""
        with suppress(NotADirectoryError):  # some other file: told when the folder is begun
            self._plan.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _difference(
    earlier: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    """The first entry that differs, by its whole name, and its two values."""
    for key in sorted({*earlier, *now}):
        one, other = earlier.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found = _difference(one, other, f"{prefix}{key}.")
            if found is not None:
                return found
        elif one != other:
            return f"{prefix}{key}", one, other
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
