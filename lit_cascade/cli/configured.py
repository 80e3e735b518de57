"""A cascade from the config files that the commands take."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError

from lit_cascade.cli.failures import instantiation_error
from lit_cascade.cli.parsing import flat
from lit_cascade.cli.refusals import Forgiving, refusal_message
from lit_cascade.core import Policy
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.lit import LitCascade, configured_cascade
from lit_cascade.models import BuiltStage, Stage
from lit_cascade.options import PolicyOptions
from lit_cascade.utilities.files import find_bundled, read_yaml


def load_cascade(
    config: Path | str, policy: Path | str | Policy | PolicyOptions | None = None
) -> LitCascade:
    """Make the cascade that a config file describes, as the commands do.

    Args:
        config: YAML file with `model` and perhaps `policy`: a path, or a bundled name.
        policy: the file that `select`, `calibrate` or `Policy.save` has written, whose options
            replace those of the config one by one; or a policy, which replaces them all.

    Raises:
        UsageError: a missing file, a config that describes no cascade, or a policy for others.
        CascadeError: a checkpoint of another architecture.

    Examples:
        >>> cascade = load_cascade("digits_pair.yaml")
        >>> cascade.names, cascade.policy.thresholds
        (('small', 'large'), (0.92,))
    """
    path = find_bundled(str(config), "configs", "config")
    content = read_yaml(path, "config")
    if not isinstance(content.get("model"), dict):
        raise UsageError(
            f"config: {str(path)!r} describes no cascade; expected `model` with `stages`, as in "
            "digits_pair.yaml."
        )
    options = content.get("policy")
    if isinstance(policy, Path | str):
        file = read_yaml(Path(policy), "policy")
        options = {**(options or {}), **file.get("policy", file)}
        policy = None
    if policy is None and options:
        policy = PolicyOptions.from_mapping(options, "policy")
    for key in content["model"]:
        check_name(str(key), ["stages", "channels_last", "compiled"], f"{path.name}: model")
    cascade = configured_cascade(**_instantiated(content["model"], path.name).as_dict())
    if policy is not None:
        cascade.policy = Policy.of(policy, cascade.names)
    return cascade.eval()


def build_stage(model: Mapping[str, Any], name: str) -> BuiltStage:
    """Build one stage of a cascade, without the weights of the others.

    Args:
        model: as in a config.
        name: of the stage.

    Raises:
        UsageError: a stage that cannot be made, or a missing checkpoint.
        CascadeError: a checkpoint of another architecture.
    """
    stages = {name: model["stages"][name]}
    stage: Stage = _instantiated({**model, "stages": stages}, "model").stages[name]
    return stage.build(name)


def _instantiated(model: Mapping[str, Any], where: str) -> Any:
    """The arguments of `configured_cascade`, made from plain values.

    Raises:
        UsageError: other values, or a class that cannot be made.
    """
    parser = Forgiving(exit_on_error=False)
    given = flat({"model": model})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a parser that cannot look into functions
        parser.add_function_arguments(configured_cascade, "model", skip={"policy"})
        try:
            parsed = parser.parse_object({"model": model})
            return parser.instantiate_classes(parsed).model
        except ArgumentError as error:
            raise UsageError(
                f"{where}: {refusal_message(error, {}, given).removeprefix('--')}"
            ) from error
        except CascadeError:
            raise
        except Exception as error:  # of a class in the config
            raise instantiation_error(error, (), given) from error
