"""One Ray cluster of a few processes for all tests here."""

import logging
import os

import pytest

from tests.forks import ROOT


@pytest.fixture(scope="session")
def ray_cluster():
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    before = {name: os.environ.get(name) for name in (*variables, "PYTHONPATH")}
    os.environ.update(variables, PYTHONPATH=str(ROOT))
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address="local",  # not one that runs on this machine
        num_cpus=3,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=200_000_000,
    )
    yield ray
    ray.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
