"""The card of a checkpoint: what it is, how it was made, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from lit_cascade.report.text import percent, quantity

__all__ = ["Card"]


@dataclass(frozen=True)
class Card:
    """What stands on a card.

    Attributes:
        name: the stage.
        data: name of the data.
        classes: class names in logit order; None if the data does not say.
        splits: accuracy and number of samples by split.
        flops: FLOPs per sample.
        parameters: number of parameters.
        recipe: the configuration that trained it: model, data, trainer, seed.
        command: what was typed.
        versions: of the libraries.
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

    def as_markdown(self) -> str:
        """The card: a YAML head for machines, then text for people."""
        head = {
            "name": self.name,
            "data": self.data,
            "accuracy": {split: accuracy for split, (accuracy, _) in self.splits.items()},
            "samples": {split: n for split, (_, n) in self.splits.items()},
            "flops": self.flops,
            "parameters": self.parameters,
            "classes": None if self.classes is None else list(self.classes),
            "command": self.command,
            "versions": dict(self.versions),
        }
        accuracies = "\n".join(
            f"| {split} | {n:,} | {percent(accuracy, 2)} |"
            for split, (accuracy, n) in self.splits.items()
        )
        recipe = yaml.safe_dump(dict(self.recipe), sort_keys=False)
        return f"""\
---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---

# {self.name}

Trained on the training split of {self.data}. {quantity(self.flops)} FLOPs per sample
({quantity(self.flops / 2)} MACs), {quantity(self.parameters)} parameters.

| split | samples | accuracy |
|---|---|---|
{accuracies}

The weights are those after the last epoch; none were chosen on the splits above.

Made by

    {self.command}

with the recipe

```yaml
{recipe}```
"""
