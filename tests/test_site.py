"""The documentation site: every page and link, and every public name in the reference."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

import lit_cascade
from lit_cascade.cli import COMMANDS

ROOT = Path(__file__).parents[1]


def test_each_public_name_is_in_the_reference_where_it_is_defined():
    entries = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)
    public = [getattr(lit_cascade, name) for name in lit_cascade.__all__ if name != "__version__"]
    assert sorted(entries) == sorted(f"{one.__module__}.{one.__qualname__}" for one in public)


def test_each_command_is_in_the_table_of_commands():
    page = (ROOT / "docs" / "commands.md").read_text()
    assert sorted(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)) == sorted(COMMANDS)


@pytest.mark.slow
def test_the_site_builds_and_no_link_or_heading_is_missing(tmp_path, caplog, monkeypatch):
    pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=False)
    with caplog.at_level(logging.WARNING, logger="mkdocs"):
        build(config)
    assert [one.getMessage() for one in caplog.records] == []
    text = (tmp_path / "reference" / "index.html").read_text()
    assert 'id="lit_cascade.analysis.selection.select"' in text
    outside = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', text)
    assert outside == []
