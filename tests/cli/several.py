"""Commands, each run by several processes that are forked when everything is imported: see runs."""

import importlib
import json
import multiprocessing
import os
import socket
import sys
import time

from lit_cascade.cli import main


def as_torchrun(rank, count):
    """What `torchrun` tells a process on one machine."""
    return {
        "WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0,
        "LOCAL_WORLD_SIZE": count, "TORCHELASTIC_RUN_ID": "several",
    }  # fmt: skip


def as_srun(rank, count):
    """What `srun` tells a process that is alone on its machine."""
    return {
        "SLURM_JOB_ID": 4711, "SLURM_JOB_NAME": "cascade", "SLURM_NNODES": count,
        "SLURM_NTASKS": count, "SLURM_NTASKS_PER_NODE": 1, "SLURM_STEP_NUM_TASKS": count,
        "SLURM_PROCID": rank, "SLURM_NODEID": rank, "SLURM_LOCALID": 0,
    }  # fmt: skip


def work(rank, told, port, words):
    """Be one of the processes."""
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | told
    os.environ |= {name: str(value) for name, value in told.items()}
    sys.argv = ["lit-cascade"]
    sys.exit(main([word.replace("{rank}", str(rank)) for word in words]))


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(count, words):
    """The exit codes of the processes, and how long the last one took."""
    port = free_port()
    nodes = count if os.environ.get("SEVERAL_AS") == "srun" else 1
    tells = as_torchrun if nodes == 1 else as_srun
    devices = ["--trainer.strategy", "ddp", "--trainer.devices", str(count // nodes)]
    devices += ["--trainer.num_nodes", str(nodes)]
    fork = multiprocessing.get_context("fork")
    all_of_them = [
        fork.Process(target=work, args=(rank, tells(rank, count), port, [*words, *devices]))
        for rank in range(count)
    ]
    start = time.monotonic()
    for process in all_of_them:
        process.start()
    for process in all_of_them:
        process.join()
    return [process.exitcode for process in all_of_them], time.monotonic() - start


if __name__ == "__main__":
    importlib.import_module("lit_cascade.cli.lightning")
    ended = [run(int(sys.argv[1]), words) for words in json.loads(sys.argv[2])]
    print(json.dumps(ended))
    sys.exit(any(code != 0 for codes, _ in ended for code in codes))
