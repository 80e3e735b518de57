"""The application of Ray Serve that `lit-cascade serve --to ray` writes a `serve.yaml` for."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from lit_cascade.options import PolicyOptions, ServingOptions
from lit_cascade.serve import inputs_of_plain, ray_application

IMPORT_PATH = "lit_cascade.cli.ray_app:build"


def build(args: dict[str, Any]) -> Any:
    """Make the application; `serve run` and `serve deploy` call it.

    Args:
        args: `model` and `policy` as in a config, `classes` in logit order or null, `inputs` as
            `plain_inputs` gives them, `options` of `ServingOptions`, and `costs` by unit and stage.
    """
    names, classes = tuple(args["model"]["stages"]), args.get("classes")
    classes = None if classes is None else tuple(classes)
    return ray_application(
        {name: partial(_stage, args["model"], name, classes) for name in names},
        PolicyOptions.from_mapping(args["policy"], "policy"),
        inputs_of_plain(args["inputs"]),
        classes,
        ServingOptions(**args.get("options") or {}),
        args.get("costs"),
    )


def _stage(model: dict[str, Any], name: str, classes: tuple[str, ...] | None) -> nn.Module:
    from lit_cascade.cli.configured import build_stage  # slow, and only stages need it

    stage = build_stage(model, name)
    if classes is not None and stage.class_names != classes:
        stage.answer_among(classes, "the data", fewer=True)
    return stage
