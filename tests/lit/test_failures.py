"""Failures of the machine, as one error."""

import errno
import signal
import sys
from unittest import mock

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_cascade import CascadeError, UsageError
from lit_cascade.lit.failures import Signals, explained


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "),
            "a process that loads samples is killed by signal: Killed. Most likely the machine",
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that "
                "dataloader's workers are out of shared memory. Please try to raise your limit."
            ),
            "the shared memory through which workers pass samples is full",
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 12) exited unexpectedly with exit code 1. Details are lost "
                "due to multiprocessing. Rerunning with num_workers=0 may give better error trace."
            ),
            "a process that loads samples exited unexpectedly with exit code 1. Most likely",
        ),
        (
            RuntimeError("DataLoader worker (pid 12) is killed by signal: Segmentation fault. "),
            "Segmentation fault: a library that it uses crashed",
        ),
        (RuntimeError("Too many open files. Communication with"), "`ulimit -n`"),
        (MemoryError(), "out of memory: MemoryError: try smaller batches"),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most "
                'recent call last):\n  File "a.py"\nRuntimeError: [enforce fail at alloc_cpu.cpp] '
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\n"
            ),
            "out of memory: RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator",
        ),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:99"),
            "another process of this run was lost",
        ),
    ],
)
def test_what_the_machine_does_is_told_in_a_sentence(error, says):
    with pytest.raises(CascadeError) as told, explained("Then go on."):
        raise error
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert "Traceback" not in str(told.value)
    assert str(told.value).endswith(" Then go on.")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        UsageError("wrong"),
        FileNotFoundError(errno.ENOENT, "none"),
        EOFError(),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),  # of the data, perhaps
    ],
)
def test_other_errors_are_left_as_they_are(error):
    with pytest.raises(type(error)) as kept, explained():
        raise error
    assert kept.value is error


def test_a_death_met_while_a_loader_is_thrown_away_is_not_printed(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda met: shown.append(str(met.exc_value)))

    class Loader:
        def __init__(self, says):
            self.says = says

        def __del__(self):
            raise RuntimeError(self.says)

    with explained():
        Loader("DataLoader worker (pid 12) is killed by signal: Killed. ")
        Loader("other")
    Loader("DataLoader worker (pid 13) is killed by signal: Killed. ")
    assert shown == ["other", "DataLoader worker (pid 13) is killed by signal: Killed. "]


def test_what_an_interrupt_breaks_is_the_interrupt():
    def breaking():
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Interrupt. ")

    with pytest.raises(KeyboardInterrupt), explained():
        breaking()


def test_a_port_in_use_is_told_as_that():
    error = RuntimeError(
        "The server socket has failed to listen on any local network address. port: 41993, "
        "useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"
    )
    says = r"^the port 41993, at which .* is in use"
    with pytest.raises(CascadeError, match=says) as told, explained():
        raise error
    assert "MASTER_PORT" in str(told.value)
    assert "memory" not in str(told.value)


LOST = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:99")


def test_what_sigterm_breaks_is_told_as_sigterm(monkeypatch):
    monkeypatch.setattr(Signals, "received", True)
    with pytest.raises(SIGTERMException), explained():
        raise LOST
    with pytest.raises(CascadeError, match="out of memory"), explained():
        raise MemoryError
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    signals = Signals(trainer)
    try:
        signals.register_signal_handlers()
        with pytest.raises(CascadeError, match="another process of this run was lost"), explained():
            raise LOST
    finally:
        signals.teardown()


def test_sigterm_is_passed_on_once_and_without_a_collective(monkeypatch):
    monkeypatch.setattr(Signals, "received", False)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        torch.distributed, "broadcast", lambda *_, **__: pytest.fail("the others may not take part")
    )
    launcher = mock.Mock()
    trainer = mock.Mock(strategy=mock.Mock(launcher=launcher), world_size=2)
    signals = Signals(trainer)
    signals.register_signal_handlers()
    try:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signals.teardown()
    launcher.kill.assert_called_once_with(signal.SIGTERM)
    assert signals.received_sigterm
    assert Signals.received


@pytest.mark.parametrize("number", [1, 2])
def test_a_death_told_twice_keeps_what_to_do_next(number):
    """Torch's signal handler interrupts whatever runs, also the telling of the first death."""
    death = "DataLoader worker (pid {}) is killed by signal: Killed. "

    @explained()
    def dying():
        try:
            with explained("Answers are kept."):
                raise RuntimeError(death.format(1))
        finally:
            raise RuntimeError(death.format(number))

    with pytest.raises(CascadeError, match="Answers are kept"):
        dying()
