"""`lit-cascade check` on a cascade that runs: its metrics, or a stream of its answers."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lit_cascade.analysis import Checked, Monitor, Tally, Window
from lit_cascade.cli.options import CheckOptions
from lit_cascade.cli.output import Output, hold
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records import read_costs
from lit_cascade.report import (
    check_summary,
    inform,
    print_check,
    show,
    show_summary,
    verdict_line,
    watch_advice,
    watch_heading,
    watch_line,
)
from lit_cascade.utilities.files import existing_path, write_atomically

if TYPE_CHECKING:
    from lit_cascade.serve import Scrape

_STDIN = "-"
_POLL = 0.2
_SAVED_EVERY = 1.0
"""Seconds between looks at a file that grows, and between writes of the state."""
_LONGEST = 1_000_000
"""Bytes of a line that can be an answer."""
_TIMEOUT = 30


def watch(options: CheckOptions) -> None:
    """Test the promise of a policy on answers of a cascade that runs.

    Raises:
        UsageError: a stream or metrics that cannot be read.
        CascadeError: the promise is broken, the data drifted, or the policy is another one.
    """
    _check(options)
    output = None if options.out is None else Output("check", options, ["check.json"])
    state, scrapes = _State(options.state), []
    if options.metrics is not None:
        from lit_cascade.serve import read_scrape

        scrapes = [read_scrape(_text_at(place), repr(place)) for place in options.metrics]
    monitor = _monitor(options, scrapes[0].costs if scrapes else {})
    if "monitor" in state.content:
        monitor.restore(state.content["monitor"])
    show(
        f"{monitor.promise.text(monitor.unit)}; an e-value of {monitor.alarm_at:,.0f} raises an "
        "alarm",
        watch_heading(monitor),
    )
    if not monitor.verdict().passed:
        inform(f"The alarm is in {options.state}; once acted upon, begin another --state.")
    elif scrapes:
        _observe(scrapes, monitor, state)
    else:
        monitor = _follow(options, monitor, state)
    verdict = monitor.verdict()
    notes = [*verdict.notes, watch_advice(verdict)]
    show("")
    print_check(verdict, verdict.unit, notes)
    summary = check_summary(verdict) | {"cost": verdict.unit, "notes": notes}
    if output is None:
        show_summary(summary)
    else:
        output.add_json("check.json", summary)
        output.write()
    if not verdict.passed:
        raise CascadeError(verdict_line(verdict, verdict.unit))


def _check(options: CheckOptions) -> None:
    """Check the options of answers.

    Raises:
        UsageError: a number that is out of range, or an option of records.
    """
    if options.every < 1:
        raise UsageError(f"every: expected a number of at least 1, got {options.every}.")
    if not options.wait >= 0:
        raise UsageError(f"wait: expected seconds of at least 0, or inf, got {options.wait}.")
    if options.calls_per_month is not None:
        raise UsageError("calls_per_month: it needs --records, which hold what answers cost.")


def _monitor(options: CheckOptions, served: Mapping[str, Mapping[str, float]]) -> Monitor:
    """A monitor at its start, with the costs that are known.

    Raises:
        UsageError: costs of another unit or of other stages.
    """
    confidence = None if options.confidence is None else float(options.confidence)
    plain = Monitor(options.policy, confidence=confidence)
    unit, costs = read_costs(options.cost or plain.unit)
    if unit != plain.unit:
        raise UsageError(f"cost: the policy was chosen by its cost in {plain.unit}; got {unit!r}.")
    costs = costs or served.get(unit, {})
    if plain.promise.counted or not costs:
        return plain
    missing = [name for name in plain.names if name not in costs]
    if missing:
        raise UsageError(f"cost: the cost of {', '.join(missing)} in {unit} is not given.")
    return Monitor(options.policy, confidence=confidence, costs=costs)


class _State:
    """The file that keeps the tests between runs; without a path nothing is kept.

    Args:
        path: of the file.

    Raises:
        UsageError: it cannot be read, or another run is writing it.
    """

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path).expanduser()
        self._saved = 0.0
        self.content: dict[str, Any] = {}
        if self._path is None:
            return
        hold(self._path.parent, [self._path.name])
        if not self._path.exists():
            return
        reason = "it holds no tests"
        try:
            self.content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.content, reason = {}, getattr(error, "strerror", None) or "it is not JSON"
        content = self.content
        parts = (
            [content.get(part) for part in ("monitor", "source")]
            if isinstance(content, dict)
            else []
        )
        if not parts or not all(isinstance(part, dict) for part in parts):
            raise UsageError(f"state: {path!r} cannot be read: {reason}; begin another file.")

    def source(self, key: str, other: str) -> dict[str, Any]:
        """What has been read so far; empty at the start.

        Args:
            key: what is always in it.
            other: the option whose states lack it.

        Raises:
            UsageError: it is not in it.
        """
        source = self.content.get("source", {key: None})
        if key not in source:
            raise UsageError(f"state: it is one of {other}; begin another file.")
        return {name: value for name, value in source.items() if value is not None}

    def save(self, monitor: Monitor, source: Mapping[str, Any], *, soon: bool = False) -> None:
        """Write the file.

        Args:
            monitor: the tests.
            source: what has been read.
            soon: whether it may be left to a later call.
        """
        if self._path is None or (soon and time.monotonic() < self._saved + _SAVED_EVERY):
            return
        content = json.dumps({"monitor": monitor.state(), "source": source}) + "\n"
        write_atomically(self._path, content.encode())
        self._saved = time.monotonic()


def _text_at(place: str) -> str:
    """What an address or a file holds.

    Raises:
        UsageError: it cannot be read.
    """
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        if place.startswith(("http://", "https://")):
            with urlopen(place, timeout=_TIMEOUT) as reply:  # noqa: S310 - one of these two
                return str(reply.read().decode("utf-8"))
        return existing_path(place, "metrics").read_text(encoding="utf-8")
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UsageError(f"metrics: cannot read {place!r}: {reason}.") from error


def _observe(scrapes: Sequence[Scrape], monitor: Monitor, state: _State) -> None:
    """Take what each server has counted since its last scrape.

    Raises:
        UsageError: the state is of a stream, or of another number of servers.
        CascadeError: a server runs another policy.
    """
    from lit_cascade.serve import Scrape

    for scrape in scrapes:
        if scrape.fingerprint != monitor.policy.fingerprint:
            raise CascadeError(
                f"metrics: the server runs the policy {scrape.fingerprint}, and this is "
                f"{monitor.policy.fingerprint}; give --policy the file that is served."
            )
    earlier = state.source("counters", "--follow")
    names = monitor.names
    before = earlier.get("counters", [None] * len(scrapes))
    if len(before) != len(scrapes):
        raise UsageError(
            f"state: it is of {len(before)} servers, and --metrics names {len(scrapes)}; begin "
            "another file."
        )
    new = Scrape.sum([now.since(then) for now, then in zip(scrapes, before, strict=True)])
    window = Window(
        new.samples(names[:-1], "answered"),
        new.samples(names[:-1], "deferred"),
        [new.below(name, edges) for name, edges in zip(names, monitor.edges, strict=False)],
    )
    n, lost = new.audits(names if monitor.checks_all else names[:-1])
    if n:
        window.checked["disagreement"] = Checked(n, lost)
    monitor.observe(window, str(earlier.get("time", "the start of the server")))
    show(watch_line(monitor, window))
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    state.save(monitor, {"counters": [one.counters for one in scrapes], "time": now})


class _Line(NamedTuple):
    """A line of a stream: its text, its number from 1, and the bytes up to its end."""

    text: str
    number: int
    end: int


class _Place(NamedTuple):
    """How far a stream has been taken."""

    stream: str
    bytes: int
    lines: int


def _follow(options: CheckOptions, monitor: Monitor, state: _State) -> Monitor:
    """Take a stream to its end, or to an alarm.

    Returns:
        The monitor at that point.

    Raises:
        UsageError: a stream that cannot be read, or a line that is no answer.
    """
    name = str(options.follow)
    stdin = name == _STDIN
    earlier = state.source("stream", "--metrics")
    place = _Place(name, 0, 0)
    if earlier.get("stream") == name:
        place = _Place(name, int(earlier["bytes"]), int(earlier["lines"]))
    tally = Tally(monitor)
    try:
        for line in _from_stdin(place) if stdin else _from_file(options, place):
            tally.add(line.text, "stdin" if stdin else repr(name), line.number)
            if len(tally) == options.every:
                _close(tally, monitor)
                place = _Place(name, line.end, line.number)
                if not monitor.verdict().passed:
                    return monitor
                state.save(monitor, place._asdict(), soon=True)
        if len(tally) and not stdin:  # a file is read again from its last full window
            ahead = monitor.look(tally.window, tally.mark)
            show(watch_line(ahead, tally.window))
            return ahead
    finally:
        if len(tally) and stdin:
            _close(tally, monitor)
        state.save(monitor, place._asdict())
    return monitor


def _close(tally: Tally, monitor: Monitor) -> None:
    """Look at the tests after a window, and begin another."""
    monitor.observe(tally.window, tally.mark)
    show(watch_line(monitor, tally.window))
    tally.begin()


def _from_stdin(place: _Place) -> Iterator[_Line]:
    lines = iter(lambda: sys.stdin.buffer.readline(_LONGEST), b"")
    for number, raw in enumerate(lines, place.lines + 1):
        yield _Line(raw.decode("utf-8", errors="replace"), number, 0)


def _from_file(options: CheckOptions, place: _Place) -> Iterator[_Line]:
    """Lines of a file that may grow, from where it was left.

    The last line may not be whole yet: without its line break it is taken only at the very end, and
    if it is whole JSON.
    """
    path = existing_path(str(options.follow), "follow")
    number, start = place.lines, place.bytes
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < start:
                inform(f"{options.follow} is shorter than before: it is read from its beginning.")
                number, start = 0, 0
            file.seek(start)
            patience, rest = time.monotonic() + options.wait, b""
            while True:
                raw = file.readline(_LONGEST)
                rest += raw
                if rest.endswith(b"\n") or len(rest) >= _LONGEST:
                    number, start = number + 1, start + len(rest)
                    yield _Line(rest.decode("utf-8", errors="replace"), number, start)
                    patience, rest = time.monotonic() + options.wait, b""
                elif not raw:
                    if time.monotonic() >= patience:
                        break
                    time.sleep(min(_POLL, max(0.0, patience - time.monotonic())))
    except OSError as error:
        raise UsageError(f"follow: cannot read {str(path)!r}: {error.strerror}.") from error
    if rest.strip():
        try:
            json.loads(rest)
        except ValueError:
            inform(f"Line {number + 1:,} of {options.follow} is not whole yet, and left out.")
            return
        yield _Line(rest.decode("utf-8", errors="replace"), number + 1, start + len(rest))
