"""Commands, each run by several processes that are forked when everything is imported: see runs."""

import importlib
import json
import multiprocessing
import os
import socket
import sys

from lit_cascade.cli import main


def work(rank, count, port, words):
    """Be one of the processes, as `torchrun` would tell it."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_RUN_ID": "several",
    }  # fmt: skip
    sys.argv = ["lit-cascade"]
    sys.exit(main(words))


def run(count, words):
    """Whether all processes did what they should."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    devices = ["--trainer.strategy", "ddp", "--trainer.devices", str(count)]
    fork = multiprocessing.get_context("fork")
    all_of_them = [
        fork.Process(target=work, args=(rank, count, port, [*words, *devices]))
        for rank in range(count)
    ]
    for process in all_of_them:
        process.start()
    for process in all_of_them:
        process.join()
    return all(process.exitcode == 0 for process in all_of_them)


if __name__ == "__main__":
    importlib.import_module("lit_cascade.cli.lightning")
    sys.exit(not all(run(int(sys.argv[1]), words) for words in json.loads(sys.argv[2])))
