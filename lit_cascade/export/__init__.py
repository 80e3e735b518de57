"""A cascade as files that run without this package: programs of the stages, and how to run them."""

from lit_cascade.export.exporting import FORMATS, Exported, export_cascade, file_names
from lit_cascade.export.page import RUNTIME_FILES, runtime_in
from lit_cascade.export.policy_file import FORMAT, POLICY_FILE

__all__ = [
    "FORMAT", "FORMATS", "POLICY_FILE", "RUNTIME_FILES", "Exported", "export_cascade",
    "file_names", "runtime_in",
]  # fmt: skip
