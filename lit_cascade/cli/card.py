"""`lit-cascade card`: a folder to share, with the model card of a cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_cascade.analysis import policy_for
from lit_cascade.cli.options import CardOptions
from lit_cascade.cli.output import Output
from lit_cascade.cli.validate import evaluated
from lit_cascade.errors import CascadeError
from lit_cascade.records import Record
from lit_cascade.report import (
    CURVE,
    CascadeCard,
    draw_curve,
    show,
    validation_summary,
)
from lit_cascade.utilities.files import Content

if TYPE_CHECKING:
    from lit_cascade.cli.lightning import CascadeCLI

_CARD = ("README.md", CURVE)
_WAYS = {"cascade.yaml": "cascade", "policy.json": "export"}


def run_files(options: CardOptions) -> None:
    """Write the card of records."""
    output = Output("card", options, list(_CARD))
    _report([Record.load(path) for path in options.records or []], options, output, {})


def run_models(cli: CascadeCLI, options: CardOptions) -> None:
    """Record the split, and write the card with the cascade."""
    from lit_cascade.lit import cascade_files

    model = cli.model
    model.policy.required_thresholds(model.names)
    cli.align(options.split)
    files: dict[str, Content] = {}
    try:  # before a Trainer changes the precision of the weights
        files = cascade_files(model)
    except CascadeError as error:
        show(f"{error} Only the card is written.")
    output = Output("card", options, [*_CARD, *files])
    records = cli.trainer.record(model, cli.datamodule, options.split, cli.check, cli.configs)
    if records is not None:
        _report(records, options, output, files)


def _report(
    records: Sequence[Record],
    options: CardOptions,
    output: Output,
    files: Mapping[str, Content],
) -> None:
    """Evaluate records, and write the card, the curve and the files."""
    policy = policy_for(records, options.policy)
    policy.required_thresholds(policy.names)
    validation, notes = evaluated(records, options)
    there = [*files, *(path.name for path in Path(output.folder).iterdir())]
    card = CascadeCard(
        name=options.name or " → ".join(policy.names),
        validation=validation,
        policy=policy,
        loads=[way for name, way in _WAYS.items() if name in there],
        license=options.license,
        notes=notes,
    )
    show(card.summary, *notes)
    output.add("README.md", card.as_markdown())
    output.add(CURVE, draw_curve(validation))
    for name, content in files.items():
        output.add(name, content)
    output.summarise(validation_summary(validation) | {"notes": notes})
    output.write()
