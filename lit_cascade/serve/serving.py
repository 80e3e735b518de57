"""From stages and a policy to a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import nn

from lit_cascade.core import Policy, PolicyLike
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live import named_stages
from lit_cascade.models import Stage
from lit_cascade.options import ServingOptions
from lit_cascade.serve.inputs import ArrayInput, ImageInput, Inputs, TextInput
from lit_cascade.serve.stage import StageRunner, costs_of
from lit_cascade.utilities.class_names import readable_names

if TYPE_CHECKING:
    from lit_cascade.serve.on_litserve import CascadeServer


def server(
    stages: Mapping[str, Stage | nn.Module] | Sequence[Stage | nn.Module],
    policy: PolicyLike,
    options: ServingOptions | None = None,
    *,
    inputs: Inputs | None = None,
    example: Any = None,
    classes: Sequence[str] | None = None,
    costs: Mapping[str, Mapping[str, float]] | None = None,
) -> CascadeServer:
    """A cascade as an HTTP server on this machine, each stage with queue and workers of its own.

    Its method `serve` runs until SIGTERM or an interrupt. It starts processes, which import the
    main module: in a script call it under `if __name__ == "__main__":`.

    Args:
        stages: as for `LitCascade`; on the CPU, as each worker moves its own to its device.
        policy: as for `Cascade`, with thresholds.
        options: how to serve; by default on port 8000 of this machine alone.
        inputs: what requests hold; by default what the preprocessing of the stages takes.
        example: for stages without preprocessing a sample of their inputs, without an axis of
            samples: a tensor, or a tuple or dict of tensors.
        classes: names of the classes in logit order; by default those of the stages, or numbers.
        costs: of a sample, by unit and stage, such as dollars; FLOPs and seconds are measured.

    Raises:
        UsageError: stages or a policy that do not fit, undecided thresholds, or inputs that are
            unknown.
        CascadeError: the extra `serve` is not installed.
    """
    for module in ("litserve", "prometheus_client"):
        if find_spec(module) is None:
            raise CascadeError(
                f"serving needs {module}, which is not installed: pip install 'lit-cascade[serve]'."
            )
    from lit_cascade.serve.on_litserve import CascadeServer  # noqa: PLC0415 - of an extra

    options = options or ServingOptions()
    by_name = named_stages(stages, policy, (nn.Module, Stage), "an nn.Module or a Stage")
    rule = Policy.of(policy, tuple(by_name))
    rule.required_thresholds(tuple(by_name))
    networks = {
        name: stage.build(name) if isinstance(stage, Stage) else stage
        for name, stage in by_name.items()
    }
    inputs = inputs or inputs_for(list(networks.values()), example, options.max_pixels)
    if classes is None:
        known = (getattr(network, "class_names", None) for network in networks.values())
        classes = next((names for names in known if names is not None), None)
    readable = None if classes is None else readable_names(classes)
    runners = [
        StageRunner(
            number,
            tuple(networks),
            network,
            rule,
            inputs,
            classes,
            readable,
            options.audit,
            costs_of(costs or {}, name),
        )
        for number, (name, network) in enumerate(networks.items())
    ]
    return CascadeServer(runners, options)


def ray_application(
    builds: Mapping[str, Callable[[], nn.Module]],
    policy: PolicyLike,
    inputs: Inputs,
    classes: Sequence[str] | None = None,
    options: ServingOptions | None = None,
    costs: Mapping[str, Mapping[str, float]] | None = None,
) -> Any:
    """A cascade as an application of Ray Serve, each stage a deployment; for `ray.serve.run`.

    Args:
        builds: make the stages where they run, by name, cheapest first.
        policy: as for `Cascade`, with thresholds.
        inputs: what requests hold.
        classes: names of the classes in logit order; None for their numbers.
        options: how to serve; of a replica's place, `ray_actor_options` says more.
        costs: as for `server`.

    Raises:
        UsageError: a policy that does not fit, or undecided thresholds.
        CascadeError: the extra `ray` is not installed.
    """
    if find_spec("ray") is None:
        raise CascadeError(
            "serving needs ray, which is not installed: pip install 'lit-cascade[ray]'."
        )
    from lit_cascade.serve.on_ray import Plan, application  # noqa: PLC0415 - of an extra

    names = tuple(builds)
    rule = Policy.of(policy, names)
    rule.required_thresholds(names)
    plan = Plan(
        names=names,
        policy=rule,
        inputs=inputs,
        classes=None if classes is None else tuple(classes),
        readable={} if classes is None else dict(readable_names(classes) or {}),
        options=options or ServingOptions(),
        costs=costs or {},
    )
    return application(plan, list(builds.values()))


def inputs_for(
    networks: Sequence[nn.Module],
    example: Any = None,
    max_pixels: int = ServingOptions.max_pixels,
    size: int | None = None,
) -> Inputs:
    """What requests hold, by an example of it, or else by the preprocessing of the stages.

    Args:
        networks: the stages.
        example: a sample: an image of Pillow, a text, a pair of texts, or tensors; None if there is
            none at hand.
        max_pixels: most pixels of an image.
        size: height and width that images are resized and cropped to before the stages take them.

    Raises:
        UsageError: it cannot be told.
    """
    if example is None and size is None:
        kinds = {type(getattr(network, "preprocessing", None)).__name__ for network in networks}
        if kinds == {"ImagePreprocessing"}:
            return ImageInput(max_pixels)
        if kinds == {"TextPreprocessing"}:
            return TextInput()
        raise UsageError(
            "example: expected a sample of the stages' inputs, such as a tensor without an axis of "
            "samples: these stages do not say what they take."
        )
    if size is not None or hasattr(example, "getexif"):
        return ImageInput(max_pixels, size)
    if isinstance(example, str):
        return TextInput()
    if isinstance(example, (tuple, list)) and all(isinstance(one, str) for one in example):
        return TextInput(pair=True)
    return ArrayInput(example)
