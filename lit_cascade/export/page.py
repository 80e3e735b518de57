"""The page that runs an exported cascade in a browser, by onnxruntime-web."""

from __future__ import annotations

import shutil
from pathlib import Path

from lit_cascade.errors import UsageError

_WEB = Path(__file__).with_name("web")
PAGE_FILES = ("index.html", "cascade.js")
RUNTIME_FILES = (
    "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
)  # fmt: skip
"""Files of onnxruntime-web that the page loads from its own folder."""
PAGE_README = f"""
## In a browser

`index.html` runs the cascade in a page and loads nothing from outside of this folder:

    python -m http.server --directory .

It needs onnxruntime-web. If it is not here, get it with `npm pack onnxruntime-web`, and copy
{", ".join(f"`{name}`" for name in RUNTIME_FILES)} of its folder `dist` to this place.
"""


def runtime_in(folder: Path | str | None) -> list[Path]:
    """The files of onnxruntime-web that the page needs; none without a folder.

    Args:
        folder: of the npm package, or its `dist`.

    Raises:
        UsageError: a folder without these files.
    """
    if folder is None:
        return []
    given = Path(folder).expanduser()
    for place in (given, given / "dist", given / "package" / "dist"):
        paths = [place / name for name in RUNTIME_FILES]
        if all(path.is_file() for path in paths):
            return paths
    raise UsageError(
        f"onnxruntime_web: {str(folder)!r} does not hold {', '.join(RUNTIME_FILES)}; expected the "
        "folder `dist` of the npm package onnxruntime-web (npm pack onnxruntime-web)."
    )


def write_page(folder: Path, runtime: list[Path]) -> None:
    """Copy the page, and the files of onnxruntime-web, into a folder."""
    for path in [*(_WEB / name for name in PAGE_FILES), *runtime]:
        shutil.copyfile(path, folder / path.name)
