"""The application of Ray Serve that `lit-cascade serve --to ray` writes a `serve.yaml` for."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from lit_cascade.cli.configured import build_stage
from lit_cascade.core import Policy
from lit_cascade.options import PolicyOptions, ServingOptions
from lit_cascade.serve import inputs_of_plain
from lit_cascade.utilities.class_names import readable_names

IMPORT_PATH = "lit_cascade.cli.ray_app:build"


def build(args: dict[str, Any]) -> Any:
    """Make the application; `serve run` and `serve deploy` call it.

    Args:
        args: `model` and `policy` as in a config, `classes` in logit order or null, `inputs` as
            `plain_inputs` gives them, and `options` of `ServingOptions`.
    """
    from lit_cascade.serve.on_ray import Plan, application

    names, classes = tuple(args["model"]["stages"]), args.get("classes")
    classes = None if classes is None else tuple(classes)
    plan = Plan(
        names=names,
        policy=Policy.of(PolicyOptions.from_mapping(args["policy"], "policy"), names),
        inputs=inputs_of_plain(args["inputs"]),
        classes=classes,
        readable={} if classes is None else dict(readable_names(classes) or {}),
        options=ServingOptions(**args.get("options") or {}),
    )
    return application(plan, [partial(_stage, args["model"], name, classes) for name in names])


def _stage(model: dict[str, Any], name: str, classes: tuple[str, ...] | None) -> nn.Module:
    stage = build_stage(model, name)
    if classes is not None and stage.class_names != classes:
        stage.answer_among(classes, "the data", fewer=True)
    return stage
