"""Answers of a cascade as lines of JSON, and their counts."""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lit_cascade.analysis.monitoring import Checked, Monitor, Window
from lit_cascade.errors import UsageError
from lit_cascade.utilities.text import single_line

_ROUNDING = 1e-6
"""Tolerance of a score around the threshold of its stage, as scores are rounded to float32."""
_EXPECTED = '{"stage": "small", "score": 0.93}'


class Tally:
    """Counts of answers, until a window of them is full.

    An answer is a line of JSON, an object with

    - `stage`: the one that answered, by name or number, and its `score`;
    - `prediction`, and `label`, the right class, where it is known;
    - `audit`: what the last stage says alone, where it was asked.

    Other keys are not read, but for `time`, which is shown.

    Args:
        monitor: what the counts are for.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._last = len(monitor.names) - 1
        self.begin()

    def begin(self) -> None:
        """Begin an empty window."""
        self.mark = ""
        self._answered = [0] * (self._last + 1)
        self._below = [[0] * len(edges) for edges in self._monitor.edges]
        self._checked: dict[str, Checked] = {}

    def __len__(self) -> int:
        return sum(self._answered)

    @property
    def window(self) -> Window:
        """The counts so far."""
        deferred = [sum(self._answered[k + 1 :]) for k in range(self._last)]
        window = Window(self._answered[:-1], deferred, [], dict(self._checked))
        # what a stage defers is below all edges from the threshold on
        for k, (edges, below) in enumerate(zip(self._monitor.edges, self._below, strict=True)):
            threshold = self._monitor.thresholds[k]
            window.below.append(
                [
                    n + deferred[k] * (edge >= threshold)
                    for edge, n in zip(edges, below, strict=True)
                ]
            )
        return window

    def add(self, line: str, where: str, number: int) -> bool:
        """Count the answer in a line of JSON, and skip an empty line.

        Args:
            line: of the stream.
            where: name of the stream, for messages.
            number: of the line, from 1.

        Returns:
            Whether there was an answer.

        Raises:
            UsageError: the line is no answer of this policy.
        """
        if not line.strip():
            return False
        try:
            answer = _parsed(line)
            self._count(answer)
        except ValueError as error:
            raise UsageError(f"follow: line {number:,} of {where}: {error}.") from error
        if not self.mark:
            self.mark = f"line {number:,}"
            if isinstance(answer.get("time"), (str, int, float)):
                self.mark += f" ({single_line(str(answer['time']))})"
        return True

    def _count(self, answer: Mapping[str, Any]) -> None:
        """Count an answer.

        Raises:
            ValueError: it is none of this policy.
        """
        stage = self._stage(answer)
        score = self._score(answer, stage) if stage < self._last else 0.0
        checks = self._checks(answer, stage)
        self._answered[stage] += 1
        if stage < self._last:
            below = self._below[stage]
            for k in range(bisect.bisect_right(self._monitor.edges[stage], score), len(below)):
                below[k] += 1
        for target, (lost, won) in checks.items():
            self._checked.setdefault(target, Checked()).add(Checked(1, lost, won))

    def _stage(self, answer: Mapping[str, Any]) -> int:
        names, stage = self._monitor.names, answer.get("stage")
        if isinstance(stage, str) and stage in names:
            return names.index(stage)
        if isinstance(stage, int) and not isinstance(stage, bool) and 0 <= stage <= self._last:
            return stage
        known = f"{', '.join(names)} or 0 to {self._last}"
        raise ValueError(f"stage: expected one of {known}, got {_shown(stage)}")

    def _score(self, answer: Mapping[str, Any], stage: int) -> float:
        name, score = self._monitor.names[stage], answer.get("score")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or math.isnan(score):
            raise ValueError(
                f"score: expected the number with which {name!r} answered, got {_shown(score)}"
            )
        threshold, floor = self._monitor.thresholds[stage], self._monitor.policy.floors[stage]
        slack = _ROUNDING * max(1.0, abs(score))
        if floor + slack <= score < threshold - slack:
            raise ValueError(
                f"score: {name!r} answers from {threshold} on by this policy, and answered at "
                f"{score}; is it another policy, or are the scores rounded?"
            )
        return score

    def _checks(self, answer: Mapping[str, Any], stage: int) -> dict[str, tuple[int, int]]:
        """Answers lost and won by target, 0 or 1 each, from the label and the audit."""
        given = {name: answer.get(name) for name in ("prediction", "label", "audit")}
        for name in ("label", "audit"):
            if given[name] is None:
                continue
            if not isinstance(given["prediction"], (str, int)):
                raise ValueError(  # noqa: TRY004 - a mistake in a file, not in a call
                    f"prediction: expected a class to compare {name} with, got "
                    f"{_shown(given['prediction'])}"
                )
            if type(given[name]) is not type(given["prediction"]):
                raise ValueError(
                    f"{name}: expected a class like prediction, {_shown(given['prediction'])}, "
                    f"got {_shown(given[name])}"
                )
        prediction, label, audit = given.values()
        checks = {}
        if label is not None:
            checks["accuracy"] = (int(prediction != label), 0)
        if audit is not None and (stage < self._last or self._monitor.checks_all):
            checks["disagreement"] = (int(prediction != audit), 0)
            if label is not None:
                lost, won = audit == label != prediction, prediction == label != audit
                checks["accuracy_drop"] = (int(lost), int(won))
        return checks


def _parsed(line: str) -> dict[str, Any]:
    """The object in a line.

    Raises:
        ValueError: there is none.
    """
    answer = None
    with suppress(ValueError, RecursionError):
        answer = json.loads(line)
    if isinstance(answer, dict):
        return answer
    raise ValueError(f"expected JSON such as {_EXPECTED}, got {_shown(line)}")


def _shown(value: Any) -> str:
    text = value.strip() if isinstance(value, str) else json.dumps(value)
    text = single_line(text)
    return "nothing" if value is None else text if len(text) <= 60 else f"{text[:57]}..."
