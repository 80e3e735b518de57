"""The property tests over many more examples than the suite has time for.

python -m tests.benchmarks.properties [--examples 2000] [--out FILE]

Prints, and writes, how many examples each property was tried on and whether it held for all.
"""

from __future__ import annotations

import functools
import os
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from lit_cascade.report.text import Table, show
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine


class Counting:
    """A plugin of pytest that counts the examples of each test, and notes which tests pass."""

    def __init__(self):
        self.tried = Counter()
        self.held = {}

    def pytest_collection_modifyitems(self, items):
        """Put a counter into each property; only the properties are run."""
        items[:] = [item for item in items if hasattr(item.obj, "hypothesis")]
        for item in items:
            item.obj.hypothesis.inner_test = self._counted(item)

    def _counted(self, item):
        inner = item.obj.hypothesis.inner_test

        @functools.wraps(inner)
        def counted(*args, **options):
            self.tried[item.name] += 1
            return inner(*args, **options)

        return counted

    def pytest_runtest_logreport(self, report):
        """Note how it went."""
        if report.when == "call":
            self.held[report.nodeid.rpartition("::")[2]] = report.passed


def main() -> None:
    """Run the properties."""
    parser = options_parser(__doc__)
    parser.add_argument("--examples", type=int, default=2000)
    args = parser.parse_args()
    os.environ["EXAMPLES"] = str(args.examples)
    plugin, start = Counting(), time.monotonic()
    tests = Path(__file__).parents[1] / "test_properties.py"
    pytest.main(["-q", "-p", "no:cacheprovider", "-n", "0", str(tests)], plugins=[plugin])
    seconds = time.monotonic() - start
    title = f"{sum(plugin.tried.values()):,} examples in {seconds:.0f} s"
    table = Table(title, "property", "examples", "held")
    for name, held in plugin.held.items():
        table.add_row(name.removeprefix("test_"), f"{plugin.tried[name]:,}", str(held))
    show(table)
    if args.out:
        found = {
            "machine": machine() | {"hypothesis": version("hypothesis")},
            "seconds": round(seconds),
            "properties": [
                {"test": name, "examples": plugin.tried[name], "held": held}
                for name, held in plugin.held.items()
            ],
        }
        write_results(args.out, found)


if __name__ == "__main__":
    main()
