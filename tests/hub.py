"""The Hugging Face hub as a dict, in place of the functions that its client offers."""

from types import SimpleNamespace
from unittest import mock

import httpx2
import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects


def refused(kind, code):
    request = httpx2.Request("POST", "https://hub")
    return kind(f"{code} from the hub", response=httpx2.Response(code, request=request))


class Hub:
    """Repositories by name, each with whether it is private, and its files by revision."""

    def __init__(self, cache):
        self.private, self.files, self.messages = {}, {}, []
        self.cache = cache

    def patched(self):
        """A context in which the client talks to this hub."""
        return mock.patch.multiple(
            huggingface_hub, HfApi=lambda: self, snapshot_download=self.snapshot_download
        )

    def create_repo(self, name, *, repo_type, private=None, exist_ok=False):
        assert repo_type == "model"
        name = name if "/" in name else f"me/{name}"
        if name in self.private and not exist_ok:
            raise refused(HfHubHTTPError, 409)
        self.private.setdefault(name, bool(private))
        self.files.setdefault(name, {"main": {}})
        return SimpleNamespace(repo_id=name)

    def repo_info(self, name, *, repo_type):
        return SimpleNamespace(private=self.private[name])

    def create_branch(self, name, *, branch, repo_type, exist_ok):
        self.files[name].setdefault(branch, dict(self.files[name]["main"]))

    def upload_folder(
        self, *, repo_id, folder_path, repo_type, revision, commit_message, ignore_patterns
    ):
        paths = [p.relative_to(folder_path) for p in folder_path.rglob("*") if p.is_file()]
        kept = filter_repo_objects(map(str, paths), ignore_patterns=ignore_patterns)
        content = {path: (folder_path / path).read_bytes() for path in kept}
        self.files[repo_id][revision or "main"].update(content)
        self.messages.append(commit_message)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def snapshot_download(self, name, *, revision, allow_patterns):
        if name not in self.files:
            raise refused(RepositoryNotFoundError, 404)
        if (revision or "main") not in self.files[name]:
            raise refused(RevisionNotFoundError, 404)
        folder = self.cache / name / (revision or "main")
        files = self.files[name][revision or "main"]
        for path in filter_repo_objects(files, allow_patterns=allow_patterns):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(files[path])
        return str(folder)
