"""Model cards of checkpoints: data, accuracy, cost and recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from lit_cascade.report.text import Table
from lit_cascade.utilities.text import in_markdown
from lit_cascade.utilities.units import metric_figure, metric_label, percent, quantity


@dataclass(frozen=True)
class Card:
    """The model card of a trained stage.

    Attributes:
        name: name of the stage.
        data: name of the data.
        classes: class names in logit order; None if the data does not say.
        splits: accuracy and number of samples by split.
        flops: FLOPs per sample.
        parameters: number of parameters.
        recipe: the training configuration: model, data, trainer, seed.
        command: the command that trained it.
        versions: versions of the libraries.
        metrics: the official metric by split and name, if it is not accuracy.
        epochs: number of training epochs.
        best: `split`, `metric`, `epoch` and `score` of the weights if they were selected on a
            split; None for the weights after the last epoch.
    """

    name: str
    data: str
    classes: Sequence[str] | None
    splits: Mapping[str, tuple[float, int]]
    flops: float
    parameters: int
    recipe: Mapping[str, Any]
    command: str
    versions: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    epochs: int | None = None
    best: Mapping[str, Any] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the table of splits."""
        return ("split", "samples", "accuracy", *map(metric_label, self._official))

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Rows of the table of splits."""
        return [
            (
                split,
                f"{n:,}",
                percent(accuracy, 2),
                *(metric_figure(name, self.metrics[split][name]) for name in self._official),
            )
            for split, (accuracy, n) in self.splits.items()
        ]

    @property
    def _official(self) -> tuple[str, ...]:
        result = [set(self.metrics.get(split, ())) for split in self.splits]
        return tuple(sorted(set.intersection(*result) - {"accuracy"})) if result else ()

    @property
    def weights(self) -> str:
        """How the weights were selected, in a sentence."""
        if self.best is None:
            return (
                "The weights are those after the last epoch; none were chosen on the splits above."
            )
        split, metric = self.best["split"], self.best["metric"]
        chosen = (
            f"The weights are those after epoch {self.best['epoch']} of {self.epochs}, which had "
            f"the best {metric_label(metric)} on the split {split}, "
            f"{metric_figure(metric, self.best['score'])}"
        )
        if split in self.splits:
            return f"{chosen}. They were chosen on it, so its row in the table is optimistic."
        return f"{chosen}; none were chosen on the splits above."

    @property
    def summary(self) -> dict[str, Any]:
        """The figures of the card, without the recipe."""
        return {
            "name": self.name,
            "data": self.data,
            "accuracy": {split: accuracy for split, (accuracy, _) in self.splits.items()},
            "samples": {split: n for split, (_, n) in self.splits.items()},
            **{
                name: {split: self.metrics[split][name] for split in self.splits}
                for name in self._official
            },
            **({} if self.best is None else {"epochs": self.epochs, "chosen": dict(self.best)}),
            "flops": self.flops,
            "parameters": self.parameters,
            "classes": None if self.classes is None else list(self.classes),
            "command": self.command,
            "versions": dict(self.versions),
        }

    def as_markdown(self) -> str:
        """The card as Markdown with a YAML header."""
        table = Table("", *self.columns)
        for row in self.rows:
            table.add_row(*row)
        recipe = yaml.safe_dump(dict(self.recipe), sort_keys=False)
        command = self.command.replace("\n", "\n    ")
        return f"""\
---
{yaml.safe_dump(self.summary, sort_keys=False, allow_unicode=True)}---

# {in_markdown(self.name)}

Trained on the training split of {in_markdown(self.data)}. {quantity(self.flops)} FLOPs per sample
({quantity(self.flops / 2)} MACs), {quantity(self.parameters)} parameters.

{table.as_markdown()}

{self.weights}

Made by

    {command}

with the recipe

```yaml
{recipe}```
"""
