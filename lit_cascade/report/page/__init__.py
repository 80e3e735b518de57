"""One page with the results of commands, which can be sent as a file."""

from lit_cascade.report.page.folder import SAMPLES
from lit_cascade.report.page.page import check_reportable, html_report

__all__ = ["SAMPLES", "check_reportable", "html_report"]
