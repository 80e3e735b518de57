"""A Trainer with the operations of a cascade as methods."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer

from lit_cascade.lit.choosing import calibrate, select
from lit_cascade.lit.execution import evaluate, execute
from lit_cascade.lit.measuring import benchmark
from lit_cascade.lit.predicting import answer
from lit_cascade.lit.recording import record, record_zoo
from lit_cascade.lit.training.fitting import train


class CascadeTrainer(Trainer):
    """A Lightning Trainer that also trains stages, and records, calibrates and runs cascades.

    Each method is a function over any Trainer, in the module named here. The results do not depend
    on the number of processes, to the last digit; they are returned on the main process
    (`is_global_zero`), and are None elsewhere unless stated otherwise. On CPUs the last digits also
    depend on the number of threads, which Lightning divides among the processes unless
    OMP_NUM_THREADS is set, as the command line does.
    """

    callbacks: list[Callback]

    train = train
    record = record
    record_zoo = record_zoo
    calibrate = calibrate
    select = select
    execute = execute
    evaluate = evaluate
    answer = answer
    benchmark = benchmark
