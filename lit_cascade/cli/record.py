"""`lit-cascade record`: the logits of every model of a zoo on a split, one file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_cascade.cli.lightning import CascadeCLI
from lit_cascade.cli.options import RecordOptions
from lit_cascade.cli.output import folder_of, hold
from lit_cascade.errors import CascadeError
from lit_cascade.records import RecordSummary
from lit_cascade.report import (
    data_notes,
    fitting_notes,
    inform,
    model_notes,
    print_records,
    records_summary,
    show_summary,
)
from lit_cascade.utilities.units import counted


def run_models(cli: CascadeCLI, options: RecordOptions) -> None:
    """Run the models one after the other and write their records."""
    folder = folder_of("record", options.out)
    hold(folder, [f"{name}.safetensors" for name in options.only or cli.model.stages])

    def announce(number: int, total: int, name: str, kept: bool) -> None:  # noqa: FBT001 - as called
        if number == 1:
            inform(f"Recording into {folder}")
        inform(f"[{number}/{total}] {name}{' (kept)' if kept else ''}")
        if cli.progress is not None:
            cli.progress.doing = f"Recording {name}, {number} of {total}"

    done = cli.trainer.record_zoo(
        cli.model,
        cli.datamodule,
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
    notes = _notes(done.written, total, folder) if done.written else []
    if done.written:
        print_records(done.written, notes)
    show_summary(records_summary(done.written) | {"failed": done.failed, "notes": notes})
    if done.failed:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in done.failed.items())
        were = "was" if len(done.failed) == 1 else "were"
        raise CascadeError(
            f"{len(done.failed)} of {counted(total, 'model')} {were} not recorded:\n{reasons}"
        )


def _notes(written: Sequence[RecordSummary], total: int, folder: Path) -> list[str]:
    notes = data_notes(written[0].data)
    notes += model_notes([(one.name, one.model, one.classes) for one in written])
    sizes = {one.name: one.info.get("samples_per_forward") for one in written}
    notes += fitting_notes({name: size for name, size in sizes.items() if size is not None})
    kept = sum(one.kept for one in written)
    rest = f", {kept} of {total} were there already" if kept else ""
    return [*notes, f"Records in {folder}{rest}."]
