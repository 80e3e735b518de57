"""Conditional execution of a cascade: batches, FLOPs, streams and their speed."""

from lit_cascade.live.batch import (
    RAW,
    Inputs,
    Preprocessing,
    Remarked,
    Views,
    batch_size,
    forward_logits,
    join,
    map_tensors,
    split_labels,
    view_of,
)
from lit_cascade.live.benchmark import (
    Latency,
    Pace,
    Speed,
    at_policy,
    latencies,
    pace,
    shares,
    thresholds_at,
    throughput,
)
from lit_cascade.live.cascade import Cascade, CascadeOutput
from lit_cascade.live.flops import FlopMeter, count_flops, count_parameters
from lit_cascade.live.stream import GATHER, Answered, Stream

__all__ = [
    "GATHER",
    "RAW",
    "Answered",
    "Cascade",
    "CascadeOutput",
    "FlopMeter",
    "Inputs",
    "Latency",
    "Pace",
    "Preprocessing",
    "Remarked",
    "Speed",
    "Stream",
    "Views",
    "at_policy",
    "batch_size",
    "count_flops",
    "count_parameters",
    "forward_logits",
    "join",
    "latencies",
    "map_tensors",
    "pace",
    "shares",
    "split_labels",
    "thresholds_at",
    "throughput",
    "view_of",
]
