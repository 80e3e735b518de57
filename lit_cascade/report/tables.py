"""Results of `test`, `predict`, `fit`, `record` and `import`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_cascade.core import OperatingPoint
from lit_cascade.records import RecordSummary
from lit_cascade.report.card import Card
from lit_cascade.report.text import Column, Table, cost_cells, cost_columns, file_size, show
from lit_cascade.utilities.units import (
    counted,
    metric_figure,
    metric_label,
    percent,
    quantity,
    times,
)

if TYPE_CHECKING:
    from lit_cascade.lit import Predictions


def print_answers(
    predictions: Predictions, names: Sequence[str], where: str, notes: Sequence[str] = ()
) -> None:
    """Print the answers if they are few, else how many samples each stage answered; and notes."""
    if predictions.rows:
        table = _few_answers(predictions.rows, where)
    else:
        table = Table(f"Answers to {where}", "stage", "answered", "share")
        for name, answered in zip(names, predictions.by_stage, strict=True):
            table.add_row(name, f"{answered:,}", percent(answered / max(predictions.n, 1)))
    lines = []
    if predictions.resumed:
        answers = counted(predictions.n, "answer")
        lines.append(f"An earlier run had given {predictions.resumed:,} of the {answers}.")
    if predictions.left_out:
        sample, reason = predictions.left_out[0]
        n = len(predictions.left_out)
        have, first = ("has", "") if n == 1 else ("have", "first ")
        lines.append(
            f"Note: {counted(n, 'sample')} could not be read and {have} no answer: "
            f"{first}{sample}: {reason}."
        )
    show(table, *lines, *notes)


def _few_answers(rows: Sequence[Mapping[str, Any]], where: str) -> Table:
    """Table of a few answers; of more than one class per sample each has a line."""
    table = Table(
        f"Answers to {where}",
        "id", Column("class", left=True), "probability", Column("stage", left=True),
    )  # fmt: skip
    for row in rows:
        if row["error"] is not None:
            table.add_row(str(row["id"]), "", "", "unread")
            continue
        ranks = ["", *(f"_{k}" for k in range(2, len(row)) if f"class_{k}" in row)]
        classes = [row.get(f"name{rank}") or row[f"class{rank}"] for rank in ranks]
        shares = [percent(row[f"probability{rank}"]) for rank in ranks]
        table.add_row(str(row["id"]), "\n".join(classes), "\n".join(shares), row["stage"])
    return table


def print_execution(
    point: OperatingPoint,
    names: Sequence[str],
    flops: Sequence[float],
    where: str,
    notes: Sequence[str],
    metric: str | None,
    executed: float,
) -> None:
    """Print the result of a live run.

    Args:
        point: accuracy, deferral and cost, and the other metric if there is one.
        names: names of the stages.
        flops: FLOPs of each stage per sample of the split, in stage order.
        where: name of the data and the split.
        notes: sentences to print below the table.
        metric: name of the other metric.
        executed: FLOPs per sample including padding.
    """
    table = Table(
        f"The cascade, run on {where}: {counted(point.n, 'sample')}",
        "stage", "threshold", "ran on", "answered", "FLOPs per sample",
    )  # fmt: skip
    reached = 1.0
    for k, name in enumerate(names):
        table.add_row(
            name,
            f"{point.thresholds[k]:.6g}" if k < len(point.thresholds) else "",
            percent(reached),
            percent(point.answered[k]),
            quantity(flops[k]),
        )
        reached -= point.answered[k]
    also = ""
    if metric is not None and point.metric is not None:
        also = f"{metric_label(metric)} {metric_figure(metric, point.metric)}, "
    result = (
        f"Accuracy {percent(point.accuracy, 2)}, {also}{point.deferral}, "
        f"{quantity(point.cost)} FLOPs executed per sample "
        f"({quantity(point.cost / 2)} MACs), {times(point.cost_ratio)} than {names[-1]!r} alone."
    )
    lines = [result]
    if executed != point.cost:
        lines.append(
            f"That is at each sample's own length; padding of batches adds "
            f"{percent(executed / point.cost - 1)}: {quantity(executed)} FLOPs per sample."
        )
    show(table, *lines, *notes)


def print_card(card: Card, resumed: int = 0) -> None:
    """Print the accuracy and cost of a trained stage, and the number of resumed epochs."""
    table = Table(f"{card.name}, trained on {card.data}", *card.columns)
    for row in card.rows:
        table.add_row(*row)
    flops = f"{quantity(card.flops)} FLOPs ({quantity(card.flops / 2)} MACs) per sample"
    lines = [f"{flops}, {quantity(card.parameters)} parameters."]
    if card.best is not None:
        lines.append(card.weights)
    if resumed:
        epochs = counted(card.epochs or 0, "epoch")
        lines.append(f"An earlier run had trained {resumed} of the {epochs}.")
    show(table, *lines)


def print_records(
    records: Sequence[RecordSummary], notes: Sequence[str] = (), made: str = "recorded"
) -> None:
    """Print accuracy and cost of each recorded model, and which records already existed.

    Args:
        records: one or more, of one split.
        notes: sentences to print below the table.
        made: the word for records that are new.
    """
    first = records[0]
    units = list(dict.fromkeys(unit for record in records for unit in record.costs))
    columns = [column for unit in units for column in cost_columns(unit)]
    several = any(record.top5 is not None for record in records)
    name, split = first.data.get("name", "arrays"), first.data.get("split")
    table = Table(
        f"Records of {name}{f', split {split!r}' if split else ''}: {counted(first.n, 'sample')}",
        "model", "accuracy", *(["top-5"] if several else []), *columns,
        "parameters", Column("file size", detail=2), "",
    )  # fmt: skip
    for record in records:
        table.add_row(
            record.name,
            "unknown" if record.accuracy is None else percent(record.accuracy, 2),
            *(["" if record.top5 is None else percent(record.top5, 2)] if several else []),
            *[cell for unit in units for cell in _cells(record, unit)],
            quantity(record.parameters) if record.parameters else "unknown",
            file_size(record.size),
            "kept" if record.kept else made,
        )
    show(table, *notes)


def records_summary(records: Sequence[RecordSummary]) -> dict[str, Any]:
    """The figures of each recorded model, for `--json`."""
    return {
        "records": [
            {
                "name": record.name,
                "file": str(record.path),
                "n": record.n,
                "accuracy": record.accuracy,
                "top5": record.top5,
                **record.costs,
                "parameters": record.parameters,
                "classes": record.classes,
                "data": dict(record.data),
                "kept": record.kept,
            }
            for record in records
        ]
    }


def _cells(record: RecordSummary, unit: str) -> list[str]:
    if unit not in record.costs:
        return [""] * len(cost_columns(unit))
    return cost_cells(record.costs[unit], unit)
