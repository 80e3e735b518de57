"""Folders on the Hugging Face hub: fetched and uploaded, with one message for what goes wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lit_cascade.errors import CascadeError, UsageError

_CONFLICT = 409
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HIDDEN = [".*", "*/.*"]
"""Patterns of hidden files, as the client of the hub takes them."""


def is_hub_name(name: str) -> bool:
    """Whether text has the form OWNER/NAME and is no YAML file's name."""
    return bool(_NAME.fullmatch(name)) and not name.endswith((".yaml", ".yml"))


def download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Fetch the files of a model on the hub into the hub's cache; offline, those that it holds.

    Args:
        name: OWNER/NAME.
        revision: branch, tag or commit; by default main.
        patterns: of the files to fetch.

    Returns:
        The folder in the cache.

    Raises:
        UsageError: no such name or revision.
        CascadeError: no access or no network.
    """
    from huggingface_hub import snapshot_download

    with _explained(name, revision, "config"):
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))


def files_to_upload(folder: Path) -> list[str]:
    """The files of a folder, without hidden ones, by their paths in it."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    hidden = {path for path in paths if any(part.startswith(".") for part in path.parts)}
    return sorted(path.as_posix() for path in set(paths) - hidden)


def upload(
    folder: Path, name: str, message: str, *, private: bool, revision: str | None, exist_ok: bool
) -> str:
    """Upload a folder as one commit; the repository is made if there is none.

    Args:
        folder: its hidden files are left out.
        name: OWNER/NAME, or NAME alone for one's own.
        message: of the commit.
        private: make a repository that only its owners see.
        revision: branch, made if there is none; by default main.
        exist_ok: whether the repository may exist.

    Returns:
        The address of the commit.

    Raises:
        UsageError: the repository exists, or is public where a private one was asked for.
        CascadeError: no access or no network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    with _explained(name, revision, "name"):
        try:
            made = api.create_repo(name, repo_type="model", private=private or None)
        except HfHubHTTPError as error:
            if error.response.status_code != _CONFLICT:
                raise
            if not exist_ok:
                raise UsageError(
                    f"name: {name!r} is on the hub already; choose another name, or add "
                    "--overwrite for a new commit there."
                ) from error
            made = api.create_repo(name, repo_type="model", exist_ok=True)
            if private and not api.repo_info(made.repo_id, repo_type="model").private:
                raise UsageError(
                    f"private: {made.repo_id!r} is on the hub already, and public; choose another "
                    "name, or make it private on its page first."
                ) from error
        if revision is not None:
            api.create_branch(made.repo_id, branch=revision, repo_type="model", exist_ok=True)
        done = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            repo_type="model",
            revision=revision,
            commit_message=message,
            ignore_patterns=_HIDDEN,
        )
    return str(done.commit_url)


@contextmanager
def _explained(name: str, revision: str | None, argument: str) -> Iterator[None]:
    """Say in one message why the hub does not answer."""
    from huggingface_hub import errors

    try:
        yield
    except CascadeError:
        raise
    except errors.HFValidationError as error:
        raise UsageError(f"{argument}: {name!r} is no name on the hub: OWNER/NAME.") from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"revision: {name!r} has no revision {revision!r}.") from error
    except errors.GatedRepoError as error:
        raise CascadeError(
            f"{argument}: the terms of {name!r} must be accepted on its page on the hub first."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(
            f"{argument}: the hub has no {name!r}, or you have no access to it; `hf auth login` "
            "logs you in."
        ) from error
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0].rstrip(".")
        raise CascadeError(f"{argument}: the hub refuses {name!r}: {reason}.") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise CascadeError(_unreachable(name, argument)) from error
    except Exception as error:  # of whatever client of HTTP it has
        if not isinstance(error, OSError) and "http" not in type(error).__module__:
            raise
        raise CascadeError(_unreachable(name, argument)) from error


def _unreachable(name: str, argument: str) -> str:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    why = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else "is there a network?"
    cached = ", and its cache does not hold it" if argument == "config" else ""
    return f"{argument}: the hub cannot be reached for {name!r} ({why}){cached}."
