"""A cascade as a folder that can be given to others: weights, policy, and no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_cascade.core import Policy
from lit_cascade.errors import UsageError
from lit_cascade.lit.cascade import LitCascade
from lit_cascade.models import TEXT_FILES, Trusted, shared_stage, stage_from
from lit_cascade.options import PolicyOptions
from lit_cascade.utilities.files import Content, read_yaml, write_together, yaml_text

CASCADE_FILE = "cascade.yaml"
SHARED_FILES = (CASCADE_FILE, "*.safetensors", *(f"*/{name}" for name in TEXT_FILES))
"""Patterns of what is read of a shared folder."""
FORMAT = "lit-cascade-folder/1"
_KEYS = {"format", "classes", "stages", "policy"}


def save_cascade(cascade: LitCascade, folder: Path | str) -> None:
    """Write a cascade into a folder, from which `load_cascade` makes it again.

    The folder holds `cascade.yaml` (stages, class names, and the policy with its evidence), the
    weights of each stage as `NAME.safetensors`, and for texts its config and tokenizer in `NAME/`.

    Args:
        cascade: of networks of `lit_cascade.models`, or of subclasses of its `Network`.
        folder: made if it does not exist; files of these names are replaced.

    Raises:
        UsageError: a place that cannot be written to.
        CascadeError: a network that cannot be made again from plain values, or a full disk.

    Examples:
        >>> from lit_cascade import load_cascade
        >>> folder = getfixture("tmp_path") / "pair"
        >>> save_cascade(load_cascade("digits_pair.yaml"), folder)
        >>> load_cascade(folder).policy.thresholds
        (0.92,)
    """
    files = cascade_files(cascade)
    write_together({Path(folder, name): content for name, content in files.items()})


def cascade_files(cascade: LitCascade) -> dict[str, Content]:
    """The files of `save_cascade`, by their paths in the folder.

    Raises:
        CascadeError: a network that cannot be made again from plain values.
    """
    stages, files = {}, dict[str, Content]()
    for name, stage in cascade.networks().items():
        stages[name], own = shared_stage(stage)
        files |= own
    content = {
        "format": FORMAT,
        "classes": None if cascade.class_names is None else list(cascade.class_names),
        "stages": stages,
        "policy": cascade.policy.to_dict(),
    }
    comment = 'Written by lit-cascade. In Python: lit_cascade.load_cascade("FOLDER")'
    return {CASCADE_FILE: yaml_text(content, comment).encode(), **files}


def cascade_from(folder: Path, trusted: Trusted = ()) -> LitCascade:
    """Make the cascade of a folder that `save_cascade` has written.

    Nothing in the folder is run, wherever it comes from.

    Args:
        folder: with `cascade.yaml`.
        trusted: networks of one's own that it may name.

    Raises:
        UsageError: a folder of something else, or one that names other classes.
        CascadeError: damaged weights, or weights of another architecture.
    """
    path = folder / CASCADE_FILE
    if not path.is_file():
        exported = (folder / "policy.json").is_file()
        hint = " It is an export, which its run_cascade.py runs." if exported else ""
        raise UsageError(f"config: {str(folder)!r} holds no {CASCADE_FILE}.{hint}")
    content = read_yaml(path, "config")
    try:
        return _cascade(content, folder, trusted)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _cascade(content: dict[str, Any], folder: Path, trusted: Trusted) -> LitCascade:
    if content.get("format") != FORMAT:
        raise UsageError(f"expected the format {FORMAT}, got {content.get('format')!r}.")
    if strange := sorted(map(str, set(content) - _KEYS)):
        raise UsageError(f"{strange[0]!r} is unknown; known are {', '.join(sorted(_KEYS))}.")
    stages, classes = content.get("stages"), content.get("classes")
    if not isinstance(stages, dict) or not all(isinstance(name, str) for name in stages):
        raise UsageError("stages: expected a mapping of names to stages.")
    if classes is not None and not (
        isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    ):
        raise UsageError("classes: expected a list of names.")
    options = PolicyOptions.from_mapping(content.get("policy"), "policy")
    policy = Policy.of(options, tuple(stages))
    made = {name: stage_from(name, one, folder, trusted) for name, one in stages.items()}
    cascade = LitCascade(made, policy)
    cascade.align(classes, fewer=True)
    if cascade.class_names is None and classes is not None:
        cascade.class_names = tuple(classes)
    return cascade
