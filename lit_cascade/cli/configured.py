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
from lit_cascade.lit import SHARED_FILES, LitCascade, cascade_from, configured_cascade
from lit_cascade.models import BuiltStage, Stage, Trusted
from lit_cascade.options import PolicyOptions
from lit_cascade.utilities.files import find_bundled, read_yaml
from lit_cascade.utilities.hub import download, is_hub_name


def load_cascade(
    config: Path | str,
    policy: Path | str | Policy | PolicyOptions | None = None,
    *,
    revision: str | None = None,
    networks: Trusted = (),
) -> LitCascade:
    """Make the cascade of a folder, of a name on the Hugging Face hub, or of a config file.

    A config file may name any class, which is then run, as the commands do. Of a folder, on the hub
    or not, nothing is run: it may name the networks of this package alone, and `networks`.

    Args:
        config: folder that `save_cascade` or `lit-cascade card` has written; OWNER/NAME of one on
            the hub, which is fetched unless it is cached; or a YAML file with `model` and perhaps
            `policy`, by its path or as a bundled name.
        policy: the file that `select`, `calibrate` or `Policy.save` has written, whose options
            replace those of the config one by one; or a policy, which replaces them all.
        revision: branch, tag or commit on the hub; by default main.
        networks: classes of your own that a folder may name.

    Raises:
        UsageError: a missing file or name, a config that describes no cascade, a folder that names
            other classes, or a policy for others.
        CascadeError: a checkpoint of another architecture, or a hub that cannot be reached.

    Examples:
        >>> cascade = load_cascade("digits_pair.yaml")
        >>> cascade.names, cascade.policy.thresholds
        (('small', 'large'), (0.92,))
    """
    name, folder = str(config), Path(config).expanduser()
    if not folder.exists() and is_hub_name(name):
        folder = download(name, revision, SHARED_FILES)
    elif revision is not None:
        raise UsageError(f"revision: expected none, as {name!r} is no name on the hub.")
    if folder.is_dir():
        cascade = cascade_from(folder, networks)
        if policy is not None:
            cascade.policy = _policy(policy, cascade.policy.to_dict(), cascade.names)
        return cascade.eval()
    path = find_bundled(name, "configs", "config")
    content = read_yaml(path, "config")
    if not isinstance(content.get("model"), dict):
        raise UsageError(
            f"config: {str(path)!r} describes no cascade; expected `model` with `stages`, as in "
            "digits_pair.yaml."
        )
    for key in content["model"]:
        check_name(str(key), ["stages", "channels_last", "compiled"], f"{path.name}: model")
    cascade = configured_cascade(**_instantiated(content["model"], path.name).as_dict())
    options = content.get("policy")
    if policy is not None or options:
        cascade.policy = _policy(policy, options or {}, cascade.names)
    return cascade.eval()


def _policy(policy: Any, options: Mapping[str, Any], names: tuple[str, ...]) -> Policy:
    """The policy of a cascade: `policy`, or the options under those in its file."""
    if policy is None or isinstance(policy, Path | str):
        file = {} if policy is None else read_yaml(Path(policy), "policy")
        return Policy.of({**options, **file.get("policy", file)}, names)
    return Policy.of(policy, names)


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
