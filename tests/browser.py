"""Pages in a headless Chromium, from a server on this machine; skipped where there is none."""

import functools
import http.server
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

RUNTIME = (  # `npm pack onnxruntime-web`, unpacked by .ci/run
    Path(__file__).parents[1] / ".cache/onnxruntime-web/package/dist",
    Path(__file__).parents[1] / "node_modules/onnxruntime-web/dist",
)


def onnxruntime_web():
    """The folder of onnxruntime-web, or a skipped test."""
    for path in RUNTIME:
        if (path / "ort.wasm.min.mjs").is_file():
            return path
    pytest.skip("onnxruntime-web is not in .cache: npm pack onnxruntime-web")
    return None


@contextmanager
def chromium():
    """A browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript", ".wasm": "application/wasm",
    }  # fmt: skip

    def log_message(self, *_):
        pass


@contextmanager
def served(folder):
    """The address of a folder."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
