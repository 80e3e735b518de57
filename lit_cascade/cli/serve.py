"""`lit-cascade serve`: a cascade over HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from lit_cascade.cli.lightning import CascadeCLI
from lit_cascade.cli.options import ServeOptions
from lit_cascade.cli.output import Output
from lit_cascade.cli.ray_app import IMPORT_PATH
from lit_cascade.core import Policy
from lit_cascade.data import (
    STDIN,
    UnlabelledImages,
    UnlabelledTexts,
)
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live import inputs_of, promised_reach, replicas
from lit_cascade.options import ServingOptions
from lit_cascade.records import read_costs
from lit_cascade.serve import inputs_for, plain_inputs, server
from lit_cascade.utilities.units import percent

_NAME = "serve.yaml"
_MOST = 4
"""Replicas of a stage under load, for each of those that are always there."""


def run_models(cli: CascadeCLI, options: ServeOptions) -> None:
    """Serve a cascade until it is stopped."""
    model = cli.model
    model.cascade.policy.required_thresholds(model.names)
    costs = _costs(options, model.names)
    if options.to == "ray":
        _refuse_options_of_one_machine(options)
        output = Output("serve", options, [_NAME])
        _write_for_ray(cli, options, output, _inputs(cli, options.max_pixels), costs)
        return
    inputs = _inputs(cli, options.max_pixels)
    served = server(
        model.networks(), model.cascade.policy, options, inputs=inputs, classes=model.class_names,
        costs=costs,
    )  # fmt: skip
    served.serve()


_INSTEAD = {
    "workers": "replicas have --ray.actors and --ray.cpus",
    "devices": "replicas have --ray.gpus, and Ray places them",
    "http_workers": "Ray starts a proxy on each machine",
}
"""Options of one machine, and what Ray has in their place."""


def _refuse_options_of_one_machine(options: ServeOptions) -> None:
    """Check that no option is given that Ray would not heed.

    Raises:
        UsageError: there is one.
    """
    for name, instead in _INSTEAD.items():
        if getattr(options, name) != getattr(ServingOptions, name):
            raise UsageError(f"{name}: it has no effect with --to ray; {instead}.")


def _costs(options: ServeOptions, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Costs that are given, by unit and stage.

    Raises:
        UsageError: no file, or one without these stages.
    """
    if options.cost is None:
        return {}
    unit, costs = read_costs(options.cost)
    missing = [name for name in names if name not in costs]
    if missing:
        raise UsageError(
            "cost: expected UNIT=FILE with the cost of each stage, such as usd=prices.csv; that of "
            f"{', '.join(missing)} is not given."
        )
    return {unit: {name: costs[name] for name in names}}


def _inputs(cli: CascadeCLI, max_pixels: int) -> Any:
    """What requests hold, as the config's data say; the model then answers among their classes.

    Images and texts need no data to be at hand; of other data one sample is read.
    """
    networks = list(cli.model.networks().values())
    try:
        data = cli.datamodule.unlabelled([STDIN])
    except (AttributeError, UsageError):
        data = None
    if isinstance(data, UnlabelledImages | UnlabelledTexts):
        cli.model.align(data.classes, fewer=True)
        if cli.model.class_names is None:  # only labelled data may name them, if they are at hand
            with suppress(CascadeError):
                cli.model.class_names = cli.labelled_classes()
        if isinstance(data, UnlabelledImages):
            return inputs_for(networks, None, max_pixels, data.size)
        return inputs_for(networks, ("", "") if data.pairs else "", max_pixels)
    return inputs_for(networks, inputs_of(cli.align("validation").dataset[0]), max_pixels)


def _write_for_ray(
    cli: CascadeCLI,
    options: ServeOptions,
    output: Output,
    inputs: Any,
    costs: Mapping[str, Mapping[str, float]],
) -> None:
    """Write the application and its deployments, as Ray Serve takes them."""
    model, names = cli.model, cli.model.names
    policy: Policy = model.cascade.policy
    known, seconds = _work(options, policy, names)
    reach = known or (1.0,) * len(names)
    work = [share * one for share, one in zip(reach, seconds, strict=True)]
    if options.rate is not None and not all(work):
        raise UsageError(
            "rate: the seconds of each stage are unknown; give --benchmark benchmark.json, which "
            "`lit-cascade benchmark` writes, or --ray.seconds."
        )
    given = options.ray.by_stage("actors", names)
    counts = [
        found if one is None else one
        for one, found in zip(given, replicas(work, options.rate), strict=True)
    ]
    sizes, waits = options.by_stage("batch_size", names), options.by_stage("wait", names)
    cpus, gpus = options.ray.by_stage("cpus", names), options.ray.by_stage("gpus", names)
    deployments: list[dict[str, Any]] = [
        {"name": "router", "num_replicas": 1, "ray_actor_options": {"num_cpus": 1.0}}
    ]
    for k, name in enumerate(names):
        scaled = {"min_replicas": counts[k], "max_replicas": _MOST * counts[k]}
        deployments.append(
            {
                "name": name,
                "autoscaling_config": scaled | {"target_ongoing_requests": sizes[k]},
                "ray_actor_options": {
                    "num_cpus": float(cpus[k]), "num_gpus": float(gpus[k] or 0.0),
                },
                "user_config": {"batch_size": sizes[k], "wait": waits[k]},
            }
        )  # fmt: skip
    model_config = cli.config_dict(skip_none=True)["model"]
    for stage in model_config["stages"].values():
        path = Path(str(stage.get("checkpoint") or ""))
        if path.name and path.is_file():  # the other names are of bundled checkpoints
            stage["checkpoint"] = str(path.absolute())
    # batches are set by `user_config`: Ray starts all replicas again where an argument changes
    own = {one.name for one in fields(ServingOptions)} - {"host", "port", "batch_size", "wait"}
    settings = {
        name: getattr(options, name)
        for name in sorted(own)
        if getattr(options, name) != getattr(ServingOptions, name)
    }
    application = {
        "name": "lit-cascade",
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": {
            "model": {key: value for key, value in model_config.items() if key != "policy"},
            "policy": policy.to_dict(),
            "classes": None if model.class_names is None else list(model.class_names),
            "inputs": plain_inputs(inputs),
            "options": settings,
            "costs": costs,
        },
        "deployments": deployments,
    }
    content = {
        "proxy_location": "EveryNode",
        "http_options": {"host": options.host, "port": options.port},
        "applications": [application],
    }
    told = ["The deferral rate is unknown: all samples may reach every stage."] * (not known)
    told += [
        f"Stage {name!r}: {percent(share)} of the samples, {one * 1e3:.3g} ms each in full batches."
        if one
        else f"Stage {name!r}: {percent(share)} of the samples, seconds unknown."
        for name, share, one in zip(names, reach, seconds, strict=True)
    ]
    if not all(seconds):
        told.append("Replicas in the ratio of the work need --benchmark benchmark.json.")
    output.add_yaml(_NAME, _plain(content), "\n".join([f"serve run {_NAME}", *told]))
    output.summarise({})
    output.write()


def _work(
    options: ServeOptions, policy: Policy, names: tuple[str, ...]
) -> tuple[Sequence[float] | None, list[float]]:
    """Share of the samples that reaches each stage, None if unknown, and its seconds, 0 if unknown.

    Raises:
        UsageError: no benchmark of these stages.
    """
    seconds = options.ray.by_stage("seconds", names)
    reach = promised_reach(policy, names)
    if options.benchmark is not None:
        path = Path(options.benchmark)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            known = [float(content["costs"][name]["latency_s"]) for name in names]
            rows = content["model_only"]["cascade"]
            fits = [row for row in rows if tuple(row["thresholds"]) == policy.thresholds]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"benchmark: expected the benchmark.json of the stages {', '.join(names)}, got "
                f"{options.benchmark!r}."
            ) from error
        seconds = [b if a is None else a for a, b in zip(seconds, known, strict=True)]
        if reach is None and fits:
            reach = tuple(float(fits[0]["reached"][name]) for name in names)
    return reach, [one or 0.0 for one in seconds]


def _plain(value: Any) -> Any:
    """Values as YAML has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return float(value) if isinstance(value, float) else value
