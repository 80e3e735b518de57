"""`lit-cascade record`: what every model of a zoo says about a split, one file each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_cascade.cli.options import RecordOptions
from lit_cascade.cli.parsing import dispatch

if TYPE_CHECKING:
    from lit_cascade.records import Written

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("record", argv, RecordOptions, _run)


def _run() -> None:
    from lit_cascade.cli.lightning import run_command
    from lit_cascade.lit import LitZoo

    # the config of a cascade will do as it is: its policy has no part in a recording
    run_command("record", LitZoo, RecordOptions, _record, unread=["policy"])


def _record(cli: Any, zoo: Any, datamodule: Any) -> None:
    """Run the models one after the other and write their records."""
    from lit_cascade.cli.output import folder_of
    from lit_cascade.errors import CascadeError
    from lit_cascade.report import print_records

    options: RecordOptions = cli.options
    folder = folder_of("record", options.out)

    def announce(number: int, total: int, name: str, kept: bool) -> None:  # noqa: FBT001 - as called
        if number == 1:
            sys.stderr.write(f"Recording into {folder}\n")
        sys.stderr.write(f"[{number}/{total}] {name}{' (kept)' if kept else ''}\n")
        sys.stderr.flush()

    done = cli.trainer.record_zoo(
        zoo,
        datamodule,
        folder,
        options.split,
        options.only,
        options.dtype,
        options.overwrite,
        cli.configs,
        announce,
    )
    if done is None:
        return
    total = len(done.written) + len(done.failed)
    if done.written:
        print_records(done.written, _notes(done.written, total, folder))
    if done.failed:
        named = "\n".join(f"  {name}: {reason}" for name, reason in done.failed.items())
        raise CascadeError(f"{len(done.failed)} of {total} models were not recorded:\n{named}")


def _notes(written: Sequence[Written], total: int, folder: Path) -> list[str]:
    from lit_cascade.report import data_notes, fitting_notes, model_notes

    notes = data_notes(written[0].data)
    notes += model_notes([(one.name, one.model, one.classes) for one in written])
    notes += fitting_notes({one.name: one.fitting for one in written if one.fitting is not None})
    kept = sum(one.kept for one in written)
    rest = f", {kept} of {total} were there already" if kept else ""
    return [*notes, f"Records in {folder}{rest}."]
