"""One real run of the bundled pair, which many tests look at."""

import pytest

from tests.cli.runs import done, within


@pytest.fixture(scope="session")
def validated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validated")
    run = done(
        within(
            "validate", "--config", "digits_pair.yaml", "--out", "out", "--save_records", cwd=folder
        )
    )
    return folder / "out", run


@pytest.fixture(scope="session")
def records(validated):
    folder, _ = validated
    return folder / "small.safetensors", folder / "large.safetensors"
