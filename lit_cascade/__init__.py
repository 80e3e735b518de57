"""lit-cascade: turn pretrained classifiers into a cascade."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and where they live. They are imported on first use, so that `import lit_cascade` and
# `lit-cascade --help` load no torch.
_PUBLIC = {
    "Cascade": "lit_cascade.live",
    "CascadeError": "lit_cascade.errors",
    "CascadeMetrics": "lit_cascade.lit",
    "CascadeOutput": "lit_cascade.live",
    "CascadeTrainer": "lit_cascade.lit",
    "Curve": "lit_cascade.core",
    "DeferralHead": "lit_cascade.core",
    "LitCascade": "lit_cascade.lit",
    "LitClassifier": "lit_cascade.lit",
    "LitZoo": "lit_cascade.lit",
    "OperatingPoint": "lit_cascade.core",
    "Policy": "lit_cascade.core",
    "PolicyOptions": "lit_cascade.options",
    "Promise": "lit_cascade.core.guarantee",
    "Record": "lit_cascade.records",
    "SearchSettings": "lit_cascade.core.search",
    "Stage": "lit_cascade.models",
    "Stream": "lit_cascade.live",
    "UsageError": "lit_cascade.errors",
    "Zoo": "lit_cascade.core.search",
    "aurc": "lit_cascade.core",
    "average_compute_reduction": "lit_cascade.core.search",
    "compare_scores": "lit_cascade.analysis",
    "count_flops": "lit_cascade.live",
    "curve_of_records": "lit_cascade.analysis",
    "deferral_quality": "lit_cascade.core",
    "fit_head": "lit_cascade.analysis",
    "fit_temperature": "lit_cascade.core",
    "frontier_of": "lit_cascade.analysis",
    "operating_points": "lit_cascade.core",
    "protocol_of": "lit_cascade.analysis",
    "replay": "lit_cascade.core",
    "search": "lit_cascade.core.search",
    "sweep": "lit_cascade.core",
}

__all__ = [
    "Cascade",
    "CascadeError",
    "CascadeMetrics",
    "CascadeOutput",
    "CascadeTrainer",
    "Curve",
    "DeferralHead",
    "LitCascade",
    "LitClassifier",
    "LitZoo",
    "OperatingPoint",
    "Policy",
    "PolicyOptions",
    "Promise",
    "Record",
    "SearchSettings",
    "Stage",
    "Stream",
    "UsageError",
    "Zoo",
    "__version__",
    "aurc",
    "average_compute_reduction",
    "compare_scores",
    "count_flops",
    "curve_of_records",
    "deferral_quality",
    "fit_head",
    "fit_temperature",
    "frontier_of",
    "operating_points",
    "protocol_of",
    "replay",
    "search",
    "sweep",
]

if TYPE_CHECKING:
    from lit_cascade.analysis import (
        compare_scores,
        curve_of_records,
        fit_head,
        frontier_of,
        protocol_of,
    )
    from lit_cascade.core import (
        Curve,
        DeferralHead,
        OperatingPoint,
        Policy,
        aurc,
        deferral_quality,
        fit_temperature,
        operating_points,
        replay,
        sweep,
    )
    from lit_cascade.core.guarantee import Promise
    from lit_cascade.core.search import SearchSettings, Zoo, average_compute_reduction, search
    from lit_cascade.errors import CascadeError, UsageError
    from lit_cascade.lit import CascadeMetrics, CascadeTrainer, LitCascade, LitClassifier, LitZoo
    from lit_cascade.live import Cascade, CascadeOutput, Stream, count_flops
    from lit_cascade.models import Stage
    from lit_cascade.options import PolicyOptions
    from lit_cascade.records import Record


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
