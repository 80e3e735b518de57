"""Data and models that meet trouble while an environment variable says so."""

import os
import signal
import time

import torch
from torch.utils.data import get_worker_info

from tests.toys import Net, Points

DEATHS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda: os._exit(9),
    "bus": lambda: os.kill(os.getpid(), signal.SIGBUS),
    "crashes": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}


class Deadly(Points):
    """Each takes SLOW seconds, and the worker that loads one of them dies as DEADLY says."""

    def __init__(self, n: int = 60, at: int = 30):
        super().__init__(n)
        self.at = at

    def __getitem__(self, position):
        time.sleep(float(os.environ.get("SLOW", "0")))
        death = DEATHS.get(os.environ.get("DEADLY", ""))
        if death is not None and position == self.at and get_worker_info() is not None:
            death()
        return super().__getitem__(position)


class Crowded(Net):
    """Takes ROOM samples at a time, and no more."""

    def forward(self, x):
        if len(x) > int(os.environ.get("ROOM", "1000")):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. More.")
        return super().forward(x)


class Hungry(Net):
    """Asks the machine for more memory than any has, while HUNGRY is set."""

    def forward(self, x):
        if os.environ.get("HUNGRY"):
            torch.empty(10**17)
        return super().forward(x)
