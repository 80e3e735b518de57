"""`lit-cascade push`: a folder on the Hugging Face hub."""

from __future__ import annotations

from lit_cascade.cli.options import PushOptions
from lit_cascade.errors import UsageError
from lit_cascade.lit import CASCADE_FILE
from lit_cascade.report import file_size, inform, show
from lit_cascade.utilities.files import existing_path
from lit_cascade.utilities.hub import files_to_upload, upload
from lit_cascade.utilities.units import counted

_SHARED = (CASCADE_FILE, "policy.json")
_MOST = 8
"""Files that are named one by one."""


def run_files(options: PushOptions) -> None:
    """Upload the folder."""
    names = options.names or []
    if len(names) != 1:
        raise UsageError(f"names: expected one NAME on the hub, got {', '.join(names) or 'none'}.")
    if options.folder is None:
        raise UsageError("folder: expected the folder to upload, as `lit-cascade card` writes it.")
    folder = existing_path(options.folder, "folder")
    if not any((folder / name).is_file() for name in _SHARED):
        raise UsageError(
            f"folder: {str(folder)!r} holds neither {' nor '.join(_SHARED)}; expected what "
            "`lit-cascade card` or `export` has written."
        )
    files = files_to_upload(folder)
    size = sum((folder / name).stat().st_size for name in files)
    which = ", ".join(files[:_MOST]) + ", ..." * (len(files) > _MOST)
    inform(f"Uploading {counted(len(files), 'file')}, {file_size(size)}: {which}")
    address = upload(
        folder,
        names[0],
        options.message,
        private=options.private,
        revision=options.revision,
        exist_ok=options.overwrite,
    )
    show(f"Uploaded to {address}")
