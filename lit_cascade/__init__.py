"""lit-cascade: turn pretrained classifiers into a cascade."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names by room. A room is imported on first use of a name, so that `import lit_cascade` and
# `lit-cascade --help` load no torch.
_ROOMS = {
    "lit_cascade.analysis": (
        "calibrate", "check", "compare_scores", "curve", "replay", "search", "select",
    ),
    "lit_cascade.cli.configured": ("load_cascade",),
    "lit_cascade.core": (
        "Curve", "DeferralHead", "OperatingPoint", "Policy", "aurc", "deferral_quality",
        "fit_temperature", "operating_points", "sweep",
    ),
    "lit_cascade.core.guarantee": ("Promise",),
    "lit_cascade.core.search": ("average_compute_reduction",),
    "lit_cascade.errors": ("CascadeError", "UsageError"),
    "lit_cascade.lit": (
        "AURC", "CascadeAccuracy", "CascadeFLOPs", "CascadeMetrics", "CascadeTrainer",
        "DeferralQuality", "DeferralRate", "LitCascade", "LitClassifier", "LitZoo",
        "ThresholdMetrics", "fit_cascade", "save_cascade",
    ),
    "lit_cascade.live": ("Cascade", "CascadeOutput", "Stream", "count_flops"),
    "lit_cascade.models": ("Stage",),
    "lit_cascade.options": ("PolicyOptions",),
    "lit_cascade.records": ("Record",),
}  # fmt: skip

__all__ = [
    "AURC", "Cascade", "CascadeAccuracy", "CascadeError", "CascadeFLOPs", "CascadeMetrics",
    "CascadeOutput", "CascadeTrainer", "Curve", "DeferralHead", "DeferralQuality", "DeferralRate",
    "LitCascade", "LitClassifier", "LitZoo", "OperatingPoint", "Policy", "PolicyOptions", "Promise",
    "Record", "Stage", "Stream", "ThresholdMetrics", "UsageError", "__version__", "aurc",
    "average_compute_reduction", "calibrate", "check", "compare_scores", "count_flops", "curve",
    "deferral_quality", "fit_cascade", "fit_temperature", "load_cascade", "operating_points",
    "replay", "save_cascade", "search", "select", "sweep",
]  # fmt: skip

if TYPE_CHECKING:
    from lit_cascade.analysis import calibrate, check, compare_scores, curve, replay, search, select
    from lit_cascade.cli.configured import load_cascade
    from lit_cascade.core import (
        Curve,
        DeferralHead,
        OperatingPoint,
        Policy,
        aurc,
        deferral_quality,
        fit_temperature,
        operating_points,
        sweep,
    )
    from lit_cascade.core.guarantee import Promise
    from lit_cascade.core.search import average_compute_reduction
    from lit_cascade.errors import CascadeError, UsageError
    from lit_cascade.lit import (
        AURC,
        CascadeAccuracy,
        CascadeFLOPs,
        CascadeMetrics,
        CascadeTrainer,
        DeferralQuality,
        DeferralRate,
        LitCascade,
        LitClassifier,
        LitZoo,
        ThresholdMetrics,
        fit_cascade,
        save_cascade,
    )
    from lit_cascade.live import Cascade, CascadeOutput, Stream, count_flops
    from lit_cascade.models import Stage
    from lit_cascade.options import PolicyOptions
    from lit_cascade.records import Record


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(importlib.import_module(room), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
