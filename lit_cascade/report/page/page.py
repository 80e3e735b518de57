"""The page: its parts in their order, put into one HTML file that asks nothing of a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_cascade import __version__
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.report.page.folder import KINDS, Results, results_in
from lit_cascade.utilities.text import plain

if TYPE_CHECKING:
    from lit_cascade.report.page.parts import Part

LARGEST = 3_000_000
"""Bytes of a page."""
_BINS = (400, 200, 100, 50)
"""Steps of a slider, until the page is small enough."""
_NEEDED = {"altair": "altair", "vl_convert": "vl-convert-python", "jinja2": "jinja2"}


def check_reportable() -> None:
    """Check that what a page needs is installed.

    Raises:
        CascadeError: the extra `report` is not.
    """
    for module, package in _NEEDED.items():
        if find_spec(module) is None:
            raise CascadeError(
                f"a report needs {package}, which is not installed: pip install "
                "'lit-cascade[report]'."
            )


def html_report(folders: Sequence[Path], command: str = "", disagreements: int = 0) -> str:
    """Put the results in some folders on one page.

    Args:
        folders: results of `validate`, `select`, `search`, `compare-scores`, `check`, `test` or
            `benchmark`.
        command: what was typed.
        disagreements: number of samples to list on which the first and the last model of `validate`
            disagree; it reads the records that `validate --save_records` kept.

    Returns:
        HTML.

    Raises:
        UsageError: a folder without such results, disagreements without records, or more than fits
            into 3 MB.
        CascadeError: the extra `report` is not installed, or a file that these commands have not
            written.
    """
    check_reportable()
    results = [found for folder in folders for found in results_in(folder)]
    if disagreements and not any(one.command == "validate" for one in results):
        raise UsageError("disagreements: expected results of validate in one of the folders.")
    for bins in _BINS:
        page = _rendered(_parts(results, bins, disagreements), command)
        size = len(page.encode())
        if size < LARGEST:
            return page
    more = " or fewer disagreements" if disagreements else ""
    raise UsageError(
        f"the page would take {size / 1e6:.1f} MB, expected less than {LARGEST / 1e6:.0f} MB to be "
        f"sent; put fewer folders{more} on it."
    )


def _parts(results: Sequence[Results], bins: int, disagreements: int) -> list[Part]:
    """The parts of the page in the order of `KINDS`: first what proposes a threshold."""
    from lit_cascade.report.page import front, thresholds, verdicts  # noqa: PLC0415 - of an extra

    selected = [one for one in results if one.command == "select"]
    makers: Mapping[str, Callable[[Results], Part]] = {
        "select": lambda one: thresholds.selection_part(one, bins, _checks(one, results)),
        "validate": lambda one: thresholds.validation_part(
            one, bins, _chosen_for(one, selected), disagreements
        ),
        "search": front.search_part,
        "compare-scores": verdicts.scores_part,
        "check": verdicts.check_part,
        "test": verdicts.run_part,
        "benchmark": verdicts.benchmark_part,
    }
    made = []
    for one in sorted(results, key=lambda one: list(KINDS).index(one.command)):
        try:
            made.append(makers[one.command](one))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise CascadeError(
                f"{str(one.folder)!r} holds no files as lit-cascade {one.command} of this version "
                f"writes them ({type(error).__name__}: {error}). Run it again."
            ) from error
    return made


def _checks(selected: Results, results: Sequence[Results]) -> list[Mapping[str, Any]]:
    """The contents of `check.json` that test a selected policy."""
    summary = selected.json()
    deferred = round(summary["chosen"]["deferral_rate"], 9)
    names = [stage["name"] for stage in summary["stages"][:-1]]
    found = list[Mapping[str, Any]]()
    for one in results:
        content = one.json("check.json") if one.command == "check" else {}
        if (
            content.get("target") == summary["target"]
            and content["limit"] == summary["limit"]
            and [stage["stage"] for stage in content["stages"]] == names
            and round(content["stages"][0]["reference_rate"], 9) == deferred
        ):
            found.append(content)
    return found


def _chosen_for(validated: Results, selected: Sequence[Results]) -> list[float]:
    """The thresholds that were selected for the same stages and score, if any."""
    summary = validated.json()
    for one in selected:
        other = one.json()
        names = [[stage["name"] for stage in two["stages"]] for two in (summary, other)]
        if names[0] == names[1] and other["score"] == summary["score"]:
            return list(map(float, other["chosen"]["thresholds"].values()))
    return []


@cache
def _scripts() -> tuple[str, str]:
    """The JavaScript of the page: Vega's, which takes a second to put together, and its own."""
    import vl_convert  # noqa: PLC0415 - of an extra

    own = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"), own


def _rendered(parts: Sequence[Part], command: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    scripts = _scripts()
    data = [
        {"chart": part.chart, "slider": part.slider, "clicks": part.clicks, "files": part.files}
        for part in parts
    ]
    return environment.get_template("page.html").render(
        parts=parts,
        data=plain(data),
        command=command,
        version=__version__,
        scripts=scripts,
        # no script but these two runs, and nothing is fetched, whatever names and texts say
        hashes=[
            base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts
        ],
    )
