import pytest

from tests.report.pages import results_in


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """A folder with results of every command that a page shows, each in one of its name."""
    return results_in(tmp_path_factory.mktemp("results"))
