"""`lit-cascade report`: results as one page that can be sent."""

from __future__ import annotations

import shlex
from dataclasses import replace

from lit_cascade.cli.options import ReportOptions
from lit_cascade.cli.output import PAGE, Output
from lit_cascade.errors import UsageError
from lit_cascade.report import html_report
from lit_cascade.utilities.files import existing_path


def run_files(options: ReportOptions) -> None:
    """Write the page."""
    if not options.folders:
        raise UsageError("folders: expected one or more folders with results of commands.")
    names = list(options.folders)
    folders = [existing_path(name, "folders") for name in names]
    if options.disagreements < 0:
        raise UsageError(f"disagreements: expected at least 0, got {options.disagreements}.")
    options = replace(options, out=options.out or str(folders[0]))
    output = Output("report", options, [PAGE])
    listing = ["--disagreements", str(options.disagreements)] if options.disagreements else []
    command = shlex.join(["lit-cascade", "report", *names, *listing])
    output.add(PAGE, html_report(folders, command, options.disagreements))
    output.write()
