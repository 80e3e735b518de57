"""The model card of a cascade, as the Hugging Face hub reads it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_cascade.analysis import promise_in
from lit_cascade.core import OperatingPoint, Policy
from lit_cascade.errors import UsageError
from lit_cascade.report.text import Table, cost_cells, cost_columns, data_title
from lit_cascade.report.validation import Validation
from lit_cascade.utilities.text import in_markdown
from lit_cascade.utilities.units import (
    cost_change,
    counted,
    fewer,
    metric_figure,
    metric_label,
    percent,
    quantity,
)

CURVE = "curve.png"
_MOST_CLASSES = 20
_COMBINED = {
    "later": "The answer of the last stage that ran counts.",
    "average": "The answer is that of the mean class probabilities of the stages that ran.",
    "most_confident": "Of the stages that ran, the answer with the highest score counts.",
}
_TASKS = {"timm": "image-classification", "transformers": "text-classification"}


@dataclass(frozen=True)
class CascadeCard:
    """The model card of a cascade.

    Attributes:
        name: of the cascade, for the title; OWNER/NAME if it is known.
        validation: the stages and the curve on one split, with an operating point.
        policy: score, temperatures, thresholds and the evidence for them.
        loads: ways to load the folder that it is written into: `cascade` where that holds
            cascade.yaml, `export` where it holds an export.
        license: identifier of the hub, such as apache-2.0; empty if it is unknown.
        notes: on the samples and the models.

    Raises:
        UsageError: a policy without thresholds.
    """

    name: str
    validation: Validation
    policy: Policy
    loads: Sequence[str] = ()
    license: str = ""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check that the policy decides."""
        self.policy.required_thresholds(self.validation.names)

    @property
    def point(self) -> OperatingPoint:
        """The operating point of the policy."""
        if self.validation.policy is None:
            raise UsageError("policy: a card needs thresholds.")
        return self.validation.policy

    def header(self) -> Any:
        """The hub's metadata, as `huggingface_hub.ModelCardData`."""
        from huggingface_hub import EvalResult, ModelCardData  # noqa: PLC0415 - takes a second

        records, point = self.validation.records, self.point
        kinds = {_TASKS[key] for one in records for key in _TASKS if key in one.model}
        task = kinds.pop() if len(kinds) == 1 else None
        data, values = records[0].data, {"accuracy": point.accuracy}
        if self.validation.curve.metric is not None and point.metric is not None:
            values[self.validation.curve.metric] = point.metric
        results = [
            EvalResult(
                task_type=task or "other",
                dataset_type=str(data.get("name") or "unknown"),
                dataset_name=str(data.get("name") or "unknown"),
                dataset_split=data.get("split"),
                metric_type=name,
                metric_value=round(value, 6),
            )
            for name, value in values.items()
        ]
        return ModelCardData(
            library_name="lit-cascade",
            license=self.license or None,
            pipeline_tag=task,
            tags=["lit-cascade", "cascade"],
            metrics=list(values),
            model_name=self.name,
            eval_results=results,
        )

    @property
    def summary(self) -> str:
        """What the cascade reaches, in a sentence."""
        curve, unit, point = self.validation.curve, self.validation.unit, self.point
        saving = fewer(point.cost_ratio, unit)
        if change := cost_change(point.cost, point.cost_ratio, unit):
            saving += f" ({change})"
        reached = [
            f"{metric_label(by)} {metric_figure(by, value)} against "
            f"{metric_figure(by, float(curve.judged_by(by)[1][-1]))}"
            for by, value in zip(
                self.validation.metrics, (point.accuracy, point.metric), strict=False
            )
            if value is not None
        ]
        return (
            f"On {data_title(self.validation.records[0].data)} ({counted(curve.n, 'sample')}): "
            f"{', '.join(reached)} of {self.validation.names[-1]} alone; {point.deferral}, "
            f"{saving}."
        )

    def _stages(self) -> str:
        validation, curve, unit = self.validation, self.validation.curve, self.validation.unit
        table = Table(
            "", "stage", "network", *map(metric_label, validation.metrics), *cost_columns(unit),
            "parameters", "threshold", "temperature", "answers",
        )  # fmt: skip
        thresholds = self.policy.required_thresholds()
        for k, record in enumerate(validation.records):
            kinds = [str(record.model[key]) for key in (*_TASKS, "class") if key in record.model]
            table.add_row(
                record.name,
                kinds[0].rpartition("models.networks.")[2] if kinds else "unknown",
                *(metric_figure(by, float(curve.judged_by(by)[1][k])) for by in validation.metrics),
                *cost_cells(float(curve.stage_cost[k]), unit),
                quantity(record.parameters) if record.parameters else "unknown",
                f"{thresholds[k]:.6g}" if k < len(thresholds) else "",
                f"{self.policy.temperatures[k]:.4g}",
                percent(self.point.answered[k]),
            )
        return table.as_markdown()

    def _promise(self) -> str:
        if "promise" not in self.policy.evidence:
            return "None: the thresholds were not chosen for a target by `lit-cascade select`."
        promise, _ = promise_in(self.policy.evidence)
        entry = self.policy.evidence["promise"]
        what = promise.text(str(entry["cost"]))
        seen = f"chosen on {counted(int(entry['n']), 'sample')}"
        if promise.confidence is None:
            return f"{what}: {seen} without a guarantee for others."
        caveats = "".join(f" {one}" for one in entry.get("caveats", []))
        return (
            f"{what} on new samples of the same kind, with {100 * promise.confidence:.3g} % "
            f"confidence over the draw of the samples; {seen}.{caveats}"
        )

    def _data(self) -> str:
        lines = [f"Figures and curve: {data_title(self.validation.records[0].data)}."]
        for part, fitted in self.policy.evidence.items():
            if isinstance(fitted, dict) and fitted.get("ids"):
                where = data_title({"name": fitted.get("data"), "split": fitted.get("split")})
                lines.append(f"{part.capitalize()}: {where}, {counted(fitted['n'], 'sample')}.")
        classes = self.validation.records[0].classes
        shown = ", ".join(classes[:_MOST_CLASSES])
        rest = len(classes) - _MOST_CLASSES
        more = f", and {rest:,} more" if rest > 0 else ""
        lines += [f"{len(classes):,} classes: {shown}{more}.", *self.notes]
        return "\n".join(f"- {in_markdown(line)}" for line in lines)

    def _loading(self) -> str:
        raw = any("preprocessing" in record.model for record in self.validation.records)
        batch = "cascade.collate([image_or_text])" if raw else "batch"
        name = self.name if "/" in self.name else "FOLDER"
        ways = {
            "cascade": f"""\
```python
from lit_cascade import load_cascade

cascade = load_cascade("{name}")  # a name on the hub, or a folder
output = cascade({batch})
print(output.prediction, output.stage, output.score)
```

No code of this folder is run: the weights are safetensors, and `cascade.yaml` names networks of
lit-cascade alone.""",
            "export": f"""\
```bash
hf download {name} --local-dir cascade
python cascade/run_cascade.py --help
```""",
        }
        return "\n\n".join(ways[way] for way in self.loads) or "Not part of this folder."

    def as_markdown(self) -> str:
        """The card as Markdown with the hub's YAML header."""
        from huggingface_hub import ModelCard  # noqa: PLC0415 - takes a second

        names = " → ".join(map(in_markdown, self.validation.names))
        text = f"""\
---
{self.header().to_yaml()}
---

# {in_markdown(self.name)}

A cascade of classifiers, {names}: a stage answers the inputs that it is sure of, and the others are
deferred to the next. {in_markdown(self.summary)}

## Stages

{self._stages()}

A stage answers where its score, `{self.policy.score}`, reaches its threshold{_floors(self.policy)};
the last always answers. {_COMBINED[self.policy.combine]}

## Promise

{in_markdown(self._promise())}

## Curve

![Accuracy against cost at every threshold]({CURVE})

## Data

{self._data()}

## How to load

{self._loading()}
"""
        return str(ModelCard(text))


def _floors(policy: Policy) -> str:
    floors = ", ".join(f"{floor:.6g}" for floor in policy.floors)
    return f", or is below its floor ({floors})" if max(policy.floors) > -math.inf else ""
