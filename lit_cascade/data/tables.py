"""Tables of samples: data sets of the Hugging Face hub, files of rows, tar shards."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.utilities.files import similar_paths

_LABELS = ("label", "labels", "cls", "fine_label", "target")
_PREFERRED = ("validation", "val", "test")
TABLES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".tar": "webdataset",
    ".arrow": "arrow",
}
"""Loader of `datasets` for each ending of a file's name."""
# names of splits in `datasets`, and the names of their files
_KNOWN = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLITS = {name: split for split, names in _KNOWN.items() for name in names}
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def load_table(
    source: str,
    split: str | None,
    config: str | None = None,
    what: str = "a data set",
    argument: str = "data.published_split",
) -> Any:
    """Load a split of a data set as a `datasets.Dataset`.

    Args:
        source: name on the hub; a folder with tables, tar shards, or the output of `save_to_disk`;
            or the path of tables or tar files, with wildcards.
        split: name of the split; by default validation, else test, else the first.
        config: the subset, where a set on the hub has several; or a folder inside of a folder.
        what: what else the source could have been, for messages.
        argument: name of the option of the split, for messages.

    Raises:
        UsageError: neither the hub nor the disk has it, or it has no such split.
        CascadeError: the split has no rows.
    """
    source = os.path.expanduser(source)  # noqa: PTH111 - no path if it is on the hub
    with _explained(source, what):
        names = _split_names(source, config) if split is None or _is_here(source) else ()
        if split is None and names:
            split = default_split(names)
        if names and split is not None:
            check_name(split, names, argument)
        return _load(source, split, config)


def published_splits(
    source: str, config: str | None = None, what: str = "a data set"
) -> tuple[str, ...]:
    """Names of the splits of a data set; none for a single table.

    A file called exactly after a split is that split, and other files beside it are splits of their
    own: `datasets` would mix train_subset.parquet into `train`. The arguments are those of
    `load_table`.

    Raises:
        UsageError: neither the hub nor the disk has it, or a folder has no folder `config`.
    """
    source = os.path.expanduser(source)  # noqa: PTH111 - as above
    with _explained(source, what):
        return _split_names(source, config)


def default_split(names: Sequence[str]) -> str | None:
    """Split that is read unless another is named: validation, else test, else the first."""
    return next((name for name in (*_PREFERRED, *names) if name in names), None)


@contextmanager
def _explained(source: str, what: str) -> Iterator[None]:
    """Turn exceptions of `datasets` and the hub's client into errors of `data.source`."""
    import datasets

    try:
        yield
    except (OSError, ValueError, tarfile.TarError, datasets.exceptions.DatasetsError) as error:
        reason = re.sub(r"\.?\n+", ". ", str(error).strip()).split(". ")
        if "corresponds to no data" in reason[0]:  # a table without rows
            raise CascadeError(f"data.source: {source!r} is empty: {reason[0]}") from error
        path = Path(source)
        hint = "" if path.exists() or "*" in source else similar_paths(path)
        raise UsageError(
            f"data.source: {source!r} is neither {what}, nor Parquet, CSV or JSON files or tar "
            f"shards, nor a data set on the hub: {'. '.join(reason[:2])}{hint and f'.{hint}'}"
        ) from error


def _split_names(source: str, config: str | None) -> tuple[str, ...]:
    import datasets

    folder = _folder(source, config)
    if folder is None:
        named = () if config is None else (config,)
        return tuple(datasets.get_dataset_split_names(source, *named))
    if (folder / "dataset_dict.json").is_file():
        return tuple(json.loads((folder / "dataset_dict.json").read_text())["splits"])
    if folder.suffix in TABLES or (folder / "state.json").is_file():
        return ()
    return tuple(_files(folder)) or tuple(datasets.get_dataset_split_names(str(folder)))


def _is_here(source: str) -> bool:
    return Path(source).exists() or Path(source).suffix in TABLES


def _folder(source: str, config: str | None) -> Path | None:
    """Local folder or file of a source; None if it is on the hub."""
    if not _is_here(source):
        return None
    folder = Path(source)
    if config is None:
        return folder
    if not (folder / config).is_dir():
        inside = sorted(path.name for path in folder.glob("*/"))
        check_name(config, inside, f"data.config: folder in {source!r}")
    return folder / config


def _by_split(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Tables by split: the name of the file without the number of a shard, or its usual name."""
    splits: dict[str, list[str]] = {}
    for path in sorted(paths):
        if path.suffix in TABLES:
            name = _SHARD.sub("", path.stem)
            splits.setdefault(_SPLITS.get(name, name), []).append(str(path))
    return splits


def _files(folder: Path) -> dict[str, list[str]]:
    """Files by split if some are called exactly after one, otherwise none."""
    files = _by_split(path for inside in ("", "data") for path in (folder / inside).glob("*"))
    return files if files.keys() & _KNOWN.keys() else {}


def _rows(paths: list[str], split: str) -> Any:
    import datasets

    kind = TABLES[Path(paths[0]).suffix]
    # "null" and "NA" are texts
    options = {"keep_default_na": False} if kind == "csv" else {}
    return datasets.load_dataset(kind, data_files={split: paths}, split=split, **options)


def _load(source: str, split: str | None, config: str | None) -> Any:
    import datasets

    folder = _folder(source, config)
    if folder is None:
        return _from_hub(source, split, config)
    if (folder / "state.json").is_file():
        return datasets.load_from_disk(str(folder))
    if (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(folder))[split]
    if folder.suffix in TABLES:
        return _rows([str(folder)], "train")
    files = _files(folder)
    if files and split is not None:
        return _rows(files[split], split)
    return datasets.load_dataset(str(folder), split=split)


def _from_hub(source: str, split: str | None, config: str | None) -> Any:
    """Load one split of a data set on the hub.

    `datasets` downloads all splits to give one (150 GB of ImageNet instead of 7), so the files of
    the split are fetched by name, if their names tell the split.
    """
    import datasets
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def by_name() -> Any:
        return datasets.load_dataset(source, *([] if config is None else [config]), split=split)

    inside = "" if config is None else f"{config}/*"
    wanted = f"*{inside}{split}*"
    try:
        folder = Path(snapshot_download(source, repo_type="dataset", allow_patterns=[wanted]))
    except LocalEntryNotFoundError as missing:
        try:  # without a network the cache of `datasets` may still have the rows
            return by_name()
        except (OSError, ValueError):
            raise missing from None
    # the folder also holds files of other splits and subsets that were fetched before
    named = [
        path
        for path in folder.rglob(f"*{split}*")
        if path.suffix in TABLES and (config is None or config in path.relative_to(folder).parts)
    ]
    if len({path.parent for path in named}) == 1:
        files = _by_split(named)
        if split in files:
            return _rows(files[split], split)
        if config is None:
            return datasets.load_dataset(str(folder), split=split)
    return by_name()


def find_label_column(rows: Any, label: str | None) -> str:
    """Column of labels in a table: as named, or the only one of a label's type, or by its name.

    Raises:
        UsageError: there is no such column, or several candidates.
    """
    import datasets

    columns, features = rows.column_names, rows.features
    if label is None:
        typed = [name for name in columns if isinstance(features[name], datasets.ClassLabel)]
        named = [name for name in _LABELS if name in columns][:1]
        label = only_column(
            typed if len(typed) == 1 else named, columns, "data.label_column", "labels"
        )
    return check_name(label, columns, "data.label_column")


def only_column(candidates: list[str], columns: list[str], argument: str, what: str) -> str:
    """The only candidate among the columns of a table.

    Raises:
        UsageError: there is none, or several.
    """
    if len(candidates) == 1:
        return candidates[0]
    several = f"{', '.join(candidates)} could be it" if candidates else f"none seems to hold {what}"
    raise UsageError(
        f"{argument}: of the columns {', '.join(columns)} {several}; name the one of {what}."
    )
