"""lit-cascade: turn pretrained classifiers into a cascade."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and where they live. They are imported on first use, so that `import lit_cascade` and
# `lit-cascade --help` load no torch.
_PUBLIC = {
    "Cascade": "lit_cascade.cascade",
    "CascadeError": "lit_cascade.errors",
    "CascadeMetrics": "lit_cascade.lit.metrics",
    "CascadeOutput": "lit_cascade.cascade",
    "CascadeTrainer": "lit_cascade.lit.trainer",
    "Curve": "lit_cascade.core.sweep",
    "DeferralHead": "lit_cascade.core.learned",
    "LitCascade": "lit_cascade.lit.cascade",
    "LitClassifier": "lit_cascade.lit.classifier",
    "LitZoo": "lit_cascade.lit.zoo",
    "OperatingPoint": "lit_cascade.core.selection",
    "Policy": "lit_cascade.core.policy",
    "PolicyOptions": "lit_cascade.options",
    "Promise": "lit_cascade.core.promise",
    "Record": "lit_cascade.records",
    "SearchSettings": "lit_cascade.core.search",
    "Stage": "lit_cascade.models.stage",
    "Stream": "lit_cascade.streaming",
    "UsageError": "lit_cascade.errors",
    "VectorScaling": "lit_cascade.core.vector",
    "Zoo": "lit_cascade.core.zoo",
    "aurc": "lit_cascade.core.quality",
    "average_compute_reduction": "lit_cascade.core.frontier",
    "count_flops": "lit_cascade.cost",
    "compare_scores": "lit_cascade.comparing",
    "curve_of_records": "lit_cascade.analysis",
    "deferral_quality": "lit_cascade.core.quality",
    "fit_head": "lit_cascade.heads",
    "fit_temperature": "lit_cascade.core.calibration",
    "fit_vector_scaling": "lit_cascade.core.vector",
    "frontier_of": "lit_cascade.frontiers",
    "operating_points": "lit_cascade.core.selection",
    "protocol_of": "lit_cascade.protocol",
    "replay": "lit_cascade.core.contract",
    "search": "lit_cascade.core.search",
    "sweep": "lit_cascade.core.sweep",
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
    "VectorScaling",
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
    "fit_vector_scaling",
    "frontier_of",
    "operating_points",
    "protocol_of",
    "replay",
    "search",
    "sweep",
]

if TYPE_CHECKING:
    from lit_cascade.analysis import curve_of_records
    from lit_cascade.cascade import Cascade, CascadeOutput
    from lit_cascade.comparing import compare_scores
    from lit_cascade.core.calibration import fit_temperature
    from lit_cascade.core.contract import replay
    from lit_cascade.core.frontier import average_compute_reduction
    from lit_cascade.core.learned import DeferralHead
    from lit_cascade.core.policy import Policy
    from lit_cascade.core.promise import Promise
    from lit_cascade.core.quality import aurc, deferral_quality
    from lit_cascade.core.search import SearchSettings, search
    from lit_cascade.core.selection import OperatingPoint, operating_points
    from lit_cascade.core.sweep import Curve, sweep
    from lit_cascade.core.vector import VectorScaling, fit_vector_scaling
    from lit_cascade.core.zoo import Zoo
    from lit_cascade.cost import count_flops
    from lit_cascade.errors import CascadeError, UsageError
    from lit_cascade.frontiers import frontier_of
    from lit_cascade.heads import fit_head
    from lit_cascade.lit.cascade import LitCascade
    from lit_cascade.lit.classifier import LitClassifier
    from lit_cascade.lit.metrics import CascadeMetrics
    from lit_cascade.lit.trainer import CascadeTrainer
    from lit_cascade.lit.zoo import LitZoo
    from lit_cascade.models.stage import Stage
    from lit_cascade.options import PolicyOptions
    from lit_cascade.protocol import protocol_of
    from lit_cascade.records import Record
    from lit_cascade.streaming import Stream


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
