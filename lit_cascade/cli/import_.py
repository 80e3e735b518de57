"""`lit-cascade import`: records from arrays of any framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_cascade.analysis import rates_renumbered
from lit_cascade.cli.options import ImportOptions
from lit_cascade.cli.output import Output
from lit_cascade.errors import CascadeError, UsageError, check_file_name, check_name, nearest
from lit_cascade.records import Record, RecordSummary, arrays, read_model_costs
from lit_cascade.report import print_records, records_summary
from lit_cascade.utilities.units import be, counted, percent
from lit_cascade.utilities.versions import run_info

_KINDS = ("logits", "probabilities", "predictions", "score")
_NOT_OF_TABLE = ("name", "logits", "probabilities", "correct", "parameters")
_LABELS = ("label", "labels")
"""Columns of whole numbers that are no model's, whichever labels are chosen."""
_NO_LABELS = (
    "Without --labels the record holds answers and not whether they are right: enough for "
    "lit-cascade check, and for select --max_disagreement."
)


def run_files(options: ImportOptions) -> None:
    """Make records from files of arrays."""
    if options.table is None:
        kind, name = _kind(options), options.name or ""
        check_file_name(name, "--name")
        output = Output("import", options, [f"{name}.safetensors"])
        of_kind = {
            "predictions": _of_predictions, "score": _of_scores, "labels": _of_labels,
        }.get(kind, _of_logits)  # fmt: skip
        notes: list[str] = []
        records = [of_kind(options, kind, notes)]
    else:
        table = _Table(options)
        output = Output("import", options, [f"{name}.safetensors" for name in table.models])
        records, notes = table.records(), table.notes
    summaries = []
    for record in records:
        file, content = f"{record.name}.safetensors", record.pieces()
        size = sum(len(piece) for piece in content)
        summaries.append(RecordSummary.of(record, output.folder / file, size))
        output.add(file, content)
    print_records(summaries, notes, "imported")
    output.summarise(records_summary(summaries) | {"notes": notes})
    output.write()


def _kind(options: ImportOptions) -> str:
    """What is known of the one model: logits, probabilities, predictions or score."""
    for name in ("models", "exclude"):
        if getattr(options, name):
            raise UsageError(f"--{name}: belongs to --table FILE, which has several models.")
    kinds = [kind for kind in _KINDS if getattr(options, kind)]
    if options.correct and not kinds and not Path(options.correct).exists():
        return _always_right(options)
    if len(kinds) != 1 and kinds != ["predictions", "score"]:
        got = " and ".join(f"--{kind}" for kind in kinds) or "none"
        raise UsageError(
            "expected one of --logits, --probabilities, --predictions, or --score (with "
            f"--predictions or --correct) for a model without logits; got {got}."
        )
    if kinds == ["score"] and not options.correct:
        raise UsageError(
            "--correct: needed with --score, to know which answers are right; or give the answers "
            "as --predictions."
        )
    if kinds != ["score"] and options.correct:
        raise UsageError(f"--correct: belongs to --score; with --{kinds[0]} it is computed.")
    if options.model_classes and kinds[0] != "predictions":
        raise UsageError(
            "--model_classes: belongs to --predictions; the names of logits are --classes."
        )
    return kinds[0]


def _always_right(options: ImportOptions) -> str:
    """The kind of a model that is always right, such as a person: its answers are the labels.

    Raises:
        UsageError: a share of right answers, or no labels.
    """
    if options.correct != "1":
        raise UsageError(
            f"--correct: expected 1 for a stage that is always right, or FILE, got "
            f"{options.correct!r}. Which answers of a person are wrong must be known sample by "
            "sample: give the person's answers as --predictions."
        )
    if not options.labels:
        raise UsageError("--labels: needed with --correct 1, as the answers of this stage.")
    return "labels"


def _of_labels(options: ImportOptions, kind: str, notes: list[str]) -> Record:
    """A record of a stage that is always right; notes on it are added."""
    classes = arrays.classes_from(options.classes, None) if options.classes else None
    labels = arrays.labels_from(options.labels or "", classes, None)
    classes = classes or _counted_classes([], labels, notes)
    prediction = labels if labels.ndim == 1 else labels.max(dim=1).values.clamp(min=0)
    notes.append("Its answers are the labels, so that it is right by definition.")
    parts = {"prediction": prediction, "labels": labels, "classes": classes}
    return _record(options, notes, len(labels), kind, **parts)


def _of_logits(options: ImportOptions, kind: str, notes: list[str]) -> Record:
    """A record of logits or probabilities; notes on it are added."""
    if kind == "logits":
        logits, names, more = arrays.logits_from(options.logits or "")
    else:
        logits, names, more = arrays.probabilities_from(options.probabilities or "")
    notes += more
    n, width = logits.shape
    classes: Sequence[str] | None = None
    if options.classes:
        classes = arrays.classes_from(options.classes, width)
    elif names:
        classes = names
        shown = ", ".join(names[:5]) + (", ..." if width > 5 else "")
        notes.append(f"Classes are named after the columns: {shown}.")
    labels = arrays.labels_from(options.labels, classes, n) if options.labels else None
    notes += [_NO_LABELS] * (labels is None)
    record = _record(options, notes, n, kind, logits=logits, labels=labels, classes=classes)
    return record.with_dtype("float16" if logits.dtype == torch.float16 else options.dtype)


def _of_predictions(options: ImportOptions, kind: str, notes: list[str]) -> Record:
    """A record of predictions, with a score if there is one; notes on it are added."""
    named = arrays.classes_from(options.classes, None) if options.classes else None
    name = options.name or ""
    known = _model_classes(options, [name], named).get(name)
    prediction = arrays.predictions_from(options.predictions or "", named)
    n = len(prediction)
    labels = arrays.labels_from(options.labels, named, n) if options.labels else None
    notes += [_NO_LABELS] * (labels is None)
    if known is not None and named is not None:
        prediction = arrays.renumbered(prediction, known, named, "--predictions")
    classes = named or _counted_classes([prediction], labels, notes)
    arrays.check_within(prediction, len(classes), "--predictions")
    notes += _suspicion([name], [prediction], labels, len(classes))
    score = arrays.score_from(options.score, n) if options.score else None
    parts = {"prediction": prediction, "score": score, "labels": labels, "classes": classes}
    return _record(options, notes, n, kind, **parts)


def _of_scores(options: ImportOptions, kind: str, notes: list[str]) -> Record:
    """A record of scores and right answers; notes on it are added."""
    score = arrays.score_from(options.score or "")
    n = len(score)
    correct = arrays.correct_from(options.correct or "", n)
    classes: Sequence[str] | None = None
    if options.classes:
        classes = arrays.classes_from(options.classes, None)
    labels = arrays.labels_from(options.labels, classes, n) if options.labels else None
    if classes is None and labels is not None:
        classes = _numbered([labels])
    parts = {"score": score, "correct": correct, "labels": labels, "classes": classes}
    return _record(options, notes, n, kind, **parts)


def _record(options: ImportOptions, notes: list[str], n: int, kind: str, **parts: Any) -> Record:
    """The record of one model, without the samples that have no label."""
    costs = arrays.costs_from(options.flops, options.cost, n)
    ids = arrays.ids_from(options.ids, n) if options.ids else None
    rows = _labelled(parts["labels"], notes)
    return _made(options, options.name or "", kind, rows, costs=costs, ids=ids, **parts)


def _made(
    options: ImportOptions, name: str, kind: str, rows: Tensor | None, *, labels: Any, **parts: Any
) -> Record:
    """A record of arrays, or of some of their rows."""
    data = {"name": options.data, "split": options.split, "source": options.source}
    record = Record.from_arrays(
        name,
        labels=labels if rows is None else None,
        parameters=options.parameters,
        data={key: value for key, value in data.items() if value is not None},
        model={"imported": kind},
        info=run_info(),
        **parts,
    )
    return record if rows is None else replace(record.rows(rows), labels=labels[rows])


def _labelled(labels: Tensor | None, notes: list[str]) -> Tensor | None:
    """Rows that have a label, (M,), or None for all; a note says how many have none.

    Raises:
        CascadeError: no row has one.
    """
    if labels is None or labels.ndim == 1:
        return None
    has = (labels >= 0).any(dim=1)
    lost = int((~has).sum())
    if lost == 0:
        return None
    if lost == len(has):
        raise CascadeError("--labels: every list is empty; expected a right label or more each.")
    notes.append(
        f"{counted(lost, 'sample')} of {len(has):,} {be(lost)} left out: the list of right labels "
        "is empty."
    )
    return has.nonzero().flatten()


def _numbered(columns: Sequence[Tensor]) -> tuple[str, ...]:
    """The classes from 0 to the largest number."""
    most = max((int(column.max()) for column in columns if column.numel()), default=0)
    return tuple(map(str, range(most + 1)))


def _counted_classes(
    predictions: Sequence[Tensor], labels: Tensor | None, notes: list[str]
) -> tuple[str, ...]:
    """The classes where none are given, with a note."""
    classes = _numbered([*predictions, *([] if labels is None else [labels])])
    notes.append(
        f"Without --classes there are {len(classes):,} classes, by the largest number among "
        f"predictions{'' if labels is None else ' and labels'}. Records of one cascade need the "
        f"same ones: give --classes {len(classes)}, or a file of their names."
    )
    return classes


def _model_classes(
    options: ImportOptions, models: Sequence[str], classes: Sequence[str] | None
) -> dict[str, tuple[str, ...]]:
    """Names of the classes of each model that numbers them in its own way.

    Raises:
        UsageError: no MODEL=FILE, no such model, one twice, or no names to align them with.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in options.model_classes or ():
        pattern, _, file = text.partition("=")
        if not pattern or not file:
            raise UsageError(
                f"--model_classes: expected MODEL=FILE, such as resnet*=names.txt, got {text!r}."
            )
        if classes is None:
            raise UsageError("--model_classes: give --classes FILE too, the names of the labels.")
        names = arrays.classes_from(file, None, "--model_classes")
        for model in _matching([pattern], models, "--model_classes"):
            if model in found:
                raise UsageError(f"--model_classes: {model!r} has two lists of names.")
            found[model] = names
    return found


def _matching(patterns: Sequence[str], models: Sequence[str], argument: str) -> list[str]:
    """Models that are among the patterns, in the models' order.

    Raises:
        UsageError: a pattern without a model.
    """
    for pattern in patterns:
        if pattern not in models and not any(fnmatchcase(model, pattern) for model in models):
            if not set(pattern) & set("*?["):
                check_name(pattern, models, argument)
            some = nearest(pattern, models) or models[:5]
            raise UsageError(
                f"{argument}: no model matches {pattern!r}; there are {len(models)}, such as "
                f"{', '.join(some)}."
            )
    return [
        model
        for model in models
        if any(model == pattern or fnmatchcase(model, pattern) for pattern in patterns)
    ]


class _Table:
    """A table with the predictions of several models.

    Args:
        options: of the command.

    Attributes:
        models: names of the models to import, in the order of their columns.
        notes: what to tell the user.

    Raises:
        UsageError: columns or models that are not there, or options of a single model.
    """

    def __init__(self, options: ImportOptions) -> None:
        for name in _NOT_OF_TABLE:
            if getattr(options, name):
                raise UsageError(f"--{name}: belongs to a single model; leave it out with --table.")
        self.notes: list[str] = []
        self._options = options
        self._table = arrays.Table.of(options.table or "", "--table")
        self._answers = _pattern(options.predictions or "{}", "--predictions", "{}_prediction")
        self._score = None
        if options.score:
            self._score = _pattern(options.score, "--score", "{}_confidence")
        known = self._table.names
        for option, column in (("--labels", options.labels), ("--ids", options.ids)):
            if column:
                check_name(column, known, f"{option}: column of {self._table.path.name}")
        candidates = self._candidates()
        chosen = candidates
        if options.models:
            chosen = _matching(options.models, candidates, "--models")
        if options.exclude:
            gone = _matching(options.exclude, candidates, "--exclude")
            chosen = [model for model in chosen if model not in gone]
        self._costs = self._costs_of(chosen)
        self.models = [model for model in chosen if model in self._costs]
        if not self.models:
            raise UsageError("--models: none is left to import.")
        for model in self.models:
            check_file_name(model, "--models")

    def _candidates(self) -> list[str]:
        """Models that have a column of predictions."""
        start, end = self._answers
        others = {self._options.labels, self._options.ids, *_LABELS}
        kinds = {"integers", "text"}
        if not (start or end or self._options.models):
            kinds = {"integers"}  # file names are no answers
        names = [
            name[len(start) : len(name) - len(end)]
            for name in self._table.names
            if name.startswith(start)
            and name.endswith(end)
            and len(name) > len(start) + len(end)
            and name not in others
            and self._table.holds(name) in kinds
        ]
        if not names:
            raise UsageError(
                f"--predictions: no column of {self._table.path.name} is like {start}{{}}{end} and "
                f"holds whole numbers or names; it has {', '.join(self._table.names[:8])}"
                f"{', ...' if len(self._table.names) > 8 else ''}."
            )
        return names

    def _costs_of(self, models: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Costs by unit of every model that has all of them; a note names those that have not.

        Raises:
            UsageError: a cost that is no number or file, or none for a model that is named.
        """
        costs: dict[str, dict[str, Any]] = {model: {} for model in models}
        for unit, value, argument in arrays.given_costs(self._options.flops, self._options.cost):
            try:
                by_model = dict.fromkeys(models, float(value))
            except ValueError:
                data = self._options.data
                by_model = read_model_costs(value, unit, argument, data)
            missing = [model for model in models if model in costs and model not in by_model]
            named = [model for model in missing if model in (self._options.models or ())]
            if named or (costs and len(missing) == len(costs)):
                which = named or missing[:5]
                alike = nearest(which[0], by_model, 1)
                raise UsageError(
                    f"{argument}: {value!r} has no row for {', '.join(which)}."
                    + (f" Did you mean {alike[0]!r}?" if alike else "")
                )
            if missing:
                self.notes.append(
                    f"Left out, as {value} has no row for them: {', '.join(missing)}."
                )
            costs = {
                model: {**some, unit: by_model[model]}
                for model, some in costs.items()
                if model in by_model
            }
        return costs

    def records(self) -> list[Record]:
        """One record per model."""
        options, table = self._options, self._table
        classes = arrays.classes_from(options.classes, None) if options.classes else None
        labels = table.labels(options.labels, classes) if options.labels else None
        ids = arrays.check_ids(table.column(options.ids, "--ids")) if options.ids else None
        self.notes += [_NO_LABELS] * (labels is None)
        own = _model_classes(options, self.models, classes)
        predictions = []
        for model in self.models:
            column = self._answers[0] + model + self._answers[1]
            who = f"--predictions: column {column!r}"
            answers = arrays.class_numbers(table.column(column, who), classes, who)
            if model in own and classes is not None:
                answers = arrays.renumbered(answers, own[model], classes, who)
            elif classes is not None:
                arrays.check_within(answers, len(classes), who)
            predictions.append(answers)
        if classes is None:
            classes = _counted_classes(predictions, labels, self.notes)
            for model, answers in zip(self.models, predictions, strict=True):
                arrays.check_within(answers, len(classes), f"--predictions: {model!r}")
        self.notes += _suspicion(self.models, predictions, labels, len(classes))
        scores = self._scores()
        rows = _labelled(labels, self.notes)
        return [
            _made(
                options,
                model,
                "predictions",
                rows,
                prediction=answers,
                score=scores.get(model),
                labels=labels,
                classes=classes,
                ids=ids,
                costs=self._costs[model],
            )
            for model, answers in zip(self.models, predictions, strict=True)
        ]

    def _scores(self) -> dict[str, Tensor]:
        """The confidences of the models that have any; a note names those that have none."""
        if self._score is None:
            return {}
        start, end = self._score
        columns = {model: f"{start}{model}{end}" for model in self.models}
        without = [model for model, column in columns.items() if column not in self._table.names]
        if len(without) == len(columns):
            raise UsageError(
                f"--score: {self._table.path.name} has no column {columns[without[0]]!r}, nor one "
                "for another of the models."
            )
        if without:
            few = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
            self.notes.append(
                f"{counted(len(without), 'model')} of {len(columns)} without confidences, as there "
                f"is no column {start}{{}}{end} for them: {few}. They can vote (--policy.score "
                "agreement)."
            )
        found = {}
        for model in columns.keys() - set(without):
            who = f"--score: column {columns[model]!r}"
            found[model] = arrays.numbers(self._table.column(columns[model], who), who)
        return found


def _pattern(text: str, argument: str, example: str) -> tuple[str, str]:
    """What a column has before and after the name of a model.

    Raises:
        UsageError: text without one {}.
    """
    start, braces, end = text.partition("{}")
    if not braces or "{}" in end:
        raise UsageError(
            f"{argument}: with --table it is the name of a column with {{}} for the name of a "
            f"model, such as {example}; got {text!r}."
        )
    return start, end


def _suspicion(
    models: Sequence[str], predictions: Sequence[Tensor], labels: Tensor | None, classes: int
) -> list[str]:
    """A note on models whose classes seem to be numbered in another way than the labels."""
    if labels is None:
        return []
    found = {}
    for model, answers in zip(models, predictions, strict=True):
        rates = rates_renumbered(answers, labels, classes)
        if rates is not None:
            found[model] = rates
    if not found:
        return []
    some = [
        f"{model} ({percent(right)} right, {percent(better)} with its classes in another order)"
        for model, (right, better) in list(found.items())[:3]
    ]
    told = ", ".join(some) + (", ..." if len(found) > len(some) else "")
    note = (
        f"Warning: the classes of {told} seem to be numbered in another way than the labels: give "
        "their names with --model_classes."
    )
    return [note]
