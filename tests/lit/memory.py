"""Records a zoo and prints the most private memory that it took, in MB: see test_memory."""

import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from lit_cascade import LitZoo, Stage
from lit_cascade.data import Datasets
from tests.lit.cascades import trainer

CLASSES = 1000


class Numbers(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, position):
        return torch.full((4,), position / self.n), position % CLASSES


def private_mb():
    """Anonymous memory of this process: what a file does not back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def watched(peak, stop):
    while not stop.is_set():
        peak[0] = max(peak[0], private_mb())
        time.sleep(0.002)


def main(samples, models):
    def build():
        return nn.Sequential(nn.Linear(4, CLASSES, bias=False), nn.Dropout())

    data = Datasets(validation=Numbers(64), batch_size=512)
    with tempfile.TemporaryDirectory() as folder:  # what is loaded on first use is not counted
        trainer().record_zoo(LitZoo({"first": Stage(build)}), data, folder)
        before, peak, stop = private_mb(), [0.0], threading.Event()
        watch = threading.Thread(target=watched, args=(peak, stop))
        watch.start()
        zoo = LitZoo({f"net{k}": Stage(build) for k in range(models)})
        trainer().record_zoo(zoo, Datasets(validation=Numbers(samples), batch_size=512), folder)
        stop.set()
        watch.join()
    print(peak[0] - before)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
