"""Tests that may be looked at at any time: whether a mean has ever gone above a limit, since when.

A bet on each sample earns nothing in expectation as long as the mean is within its limit. One that
starts late forgets the time in which all was well, so that capital is spread over bets that start
in every window to come: with share T(t - 1) - T(t) in window t, where T(t) = log a / log(a + t) is
what has not been bet yet. The sum is a test martingale: it ever reaches 1 / delta with probability
at most delta, however often and for however long one looks (Ville's inequality). A change in window
t is seen as soon as its evidence is log(1 / delta) and a logarithm of t.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lit_cascade.core.guarantee.bounds import bets_up_to, log_gains

_BETS = 16
_LEAST = 1e-3
_EARLY = 16.0
"""The number a: about as many windows share most of the capital of the first bets."""


def unspent(windows: int) -> float:
    """Share of the capital that is not bet yet after some windows.

    Examples:
        >>> unspent(0), round(unspent(100), 3)
        (1.0, 0.583)
    """
    return math.log(_EARLY) / math.log(_EARLY + windows)


class RunningTests:
    """Tests of H hypotheses, each that the mean of bounded values is never above a limit.

    The mean of a sample is that given all before it, so that samples may depend on earlier ones.

    Args:
        limits: largest means, (H,).
        lowest: smallest possible values, (H,).
        batch: leading dimensions of independent runs, for simulations.

    Attributes:
        windows: number of windows seen.
    """

    def __init__(self, limits: np.ndarray, lowest: np.ndarray, batch: tuple[int, ...] = ()) -> None:
        self._limits = np.asarray(limits, dtype=np.float64)
        rooms = self._limits - np.asarray(lowest, dtype=np.float64)
        shape = (0, _BETS)
        self._bets = np.array([bets_up_to(room, _BETS, _LEAST) for room in rooms]).reshape(
            rooms.shape + shape[1:]
        )
        self.windows = 0
        size = (*batch, *rooms.shape, _BETS)
        # logarithms of the capital of all bets so far, and of that of the best start alone
        self._capital = np.full(size, -math.inf)
        self._best = np.zeros(size)
        self._start = np.zeros(size, dtype=np.int64)

    def update(self, values: np.ndarray, counts: np.ndarray) -> None:
        """Take the samples of the next window.

        Args:
            values: (H, V).
            counts: number of samples of each value, (..., H, V).
        """
        gains = log_gains(-np.asarray(values, dtype=np.float64), -self._limits, self._bets)
        earned = (gains * np.asarray(counts)[..., None, :]).sum(axis=-1)
        stake = unspent(self.windows) - unspent(self.windows + 1)
        self._capital = np.logaddexp(self._capital, math.log(stake)) + earned
        fresh = self._best <= 0
        self._start = np.where(fresh, self.windows, self._start)
        self._best = np.where(fresh, 0.0, self._best) + earned
        self.windows += 1

    def log_e(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Logarithm of the e-value of each hypothesis, (..., H); of their mixture with weights.

        Args:
            weights: of the hypotheses, (H,), with sum 1.
        """
        spent = np.logaddexp.reduce(self._capital, axis=-1) - math.log(_BETS)
        if weights is not None:
            spent = np.logaddexp.reduce(spent + np.log(weights), axis=-1)
        total: np.ndarray = np.logaddexp(spent, math.log(unspent(self.windows)))
        return total

    def since(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Window, from 0, in which the mean went above its limit most likely, (..., H).

        It is the start of the bet that has earned most; of all with weights.
        """
        best, start = self._best, self._start
        if weights is not None:
            best = best + np.log(weights)[:, None]
            best, start = (one.reshape(*one.shape[:-2], -1) for one in (best, start))
        at = best.argmax(axis=-1)
        found: np.ndarray = np.take_along_axis(start, at[..., None], axis=-1)[..., 0]
        return found

    @property
    def starts(self) -> set[int]:
        """Windows that `since` may still name."""
        return set(np.unique(self._start).tolist())

    def state(self) -> dict[str, Any]:
        """What has been seen, as plain JSON."""
        finite = np.where(np.isneginf(self._capital), -1e308, self._capital)
        return {
            "windows": self.windows,
            "capital": finite.tolist(),
            "best": self._best.tolist(),
            "start": self._start.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` gave.

        Raises:
            ValueError: it is of other hypotheses.
        """
        for name in ("capital", "best", "start"):
            own = getattr(self, f"_{name}")
            given = np.array(state[name], dtype=own.dtype)
            if given.shape != own.shape or np.isnan(given).any():
                raise ValueError(f"{name} has the shape {given.shape} instead of {own.shape}")
            setattr(self, f"_{name}", given)
        self._capital[self._capital <= -1e308] = -math.inf
        self.windows = int(state["windows"])
