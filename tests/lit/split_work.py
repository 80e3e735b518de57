"""Work by one of several processes.

python -m tests.lit.split_work COUNT FOLDER SIZE...
"""

import json
import logging
import math
import os
import sys
from functools import partial
from pathlib import Path

from lit_cascade import CascadeTrainer, LitCascade, LitZoo, PolicyOptions, Stage
from lit_cascade.core.guarantee.promise import Promise
from lit_cascade.data import Datasets
from tests.toys import Net, Sorted, Steep

SIZES = {"one": 1, "two": 2, "uneven": 21}
"""Samples, in batches of 4: fewer than processes, and a number that nothing divides."""

RUNS = ((-math.inf, 1), (0.6, 2), (0.6, 8), (math.inf, 1))
"""Thresholds and batches per window.

Nobody defers; the process with the surest window defers nothing, and that with the least sure all;
there is one window; everybody defers everything.
"""


def trainer(count):
    several = {"devices": count, "strategy": "ddp"} if count > 1 else {"devices": 1}
    return CascadeTrainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **several,
    )  # fmt: skip


def stages():
    return {"small": Stage(partial(Steep, 3, 1)), "large": Stage(partial(Net, 8, 2))}


def keep(path, content):
    """Write what the main process was given."""
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else repr(content).encode())


def columns(execution):
    """All numbers of a run, to the last bit."""
    if execution is None:
        return None
    found = {
        name: getattr(execution, name).double().tolist()
        for name in ("prediction", "stage", "score", "flops", "flops_alone", "executed")
    }
    return json.dumps(found | {"ids": execution.samples.ids.tolist()}).encode()


def work(count, folder, sizes):
    """Everything that several processes may share, in a folder for each size and threshold."""
    for size in sizes:
        n = SIZES[size]
        data = Datasets(validation=Sorted(n), calibration=Sorted(n, 50), batch_size=4)
        here = folder / size
        model = LitCascade(stages(), PolicyOptions())
        for record in trainer(count).record(model, data) or ():
            keep(here / "recorded" / record.name, record.to_bytes())
        trainer(count).record_zoo(LitZoo(stages()), data, here / "zoo", dtype="float32")
        trainer(count).calibrate(model, data)
        temperature = model.policy.temperatures[0]
        keep(here / f"temperature{os.environ.get('RANK', '0')}", temperature)
        model = LitCascade(stages(), PolicyOptions())
        promise = Promise("disagreement", 0.9, 0.6)
        found = trainer(count).select(model, data, promise)
        keep(here / "selected", None if found is None else found.chosen)
        for threshold, gather in RUNS:
            there = here / f"{threshold}-{gather}"
            model = LitCascade(stages(), PolicyOptions(thresholds=[threshold]))
            keep(there / "ran", columns(trainer(count).execute(model, data, gather=gather)))
            trainer(count).answer(model, data, there, name="answers.csv", gather=gather)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    work(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
