"""What every test starts from: no network, one thread and one seed."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # tables would leave out columns

import pytest

from tests import forks


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # workers share the server of their starter
        os.environ.pop(forks.ADDRESS, None)
        if getattr(config.option, "numprocesses", None):
            forks.start()


def pytest_unconfigure():
    gc.unfreeze()
    forks.stop()


@pytest.fixture(autouse=True, scope="module")
def frozen():
    # modules and constants stay: a garbage collection that visits them takes a third of a second
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    import torch

    torch.manual_seed(0)
