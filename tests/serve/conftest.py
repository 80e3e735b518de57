"""What tests of several modules share."""

import pytest


@pytest.fixture
def counts(tmp_path, monkeypatch):
    """A folder in which this process counts."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path
