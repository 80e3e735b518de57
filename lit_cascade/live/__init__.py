"""Live execution of a cascade: batches, FLOPs, the cascade itself, streams and benchmarks."""

from lit_cascade.live.batch import (
    Inputs,
    Preprocessing,
    Views,
    WithRemarks,
    batch_size,
    forward_logits,
    index_batch,
    inputs_of,
    join_batches,
    split_labels,
    view_key,
    view_of,
)
from lit_cascade.live.benchmark import (
    Latency,
    Speed,
    latencies,
    thresholds_at,
    throughput,
    time_policies,
)
from lit_cascade.live.cascade import Cascade, CascadeOutput, Step, named_stages
from lit_cascade.live.flops import FlopMeter, count_flops, count_parameters
from lit_cascade.live.pools import Resources, pool_sizes, promised_reach, replicas
from lit_cascade.live.stream import GATHER, Stream, StreamOutput

__all__ = [
    "GATHER", "Cascade", "CascadeOutput", "FlopMeter", "Inputs", "Latency", "Preprocessing",
    "Resources", "Speed", "Step", "Stream", "StreamOutput", "Views", "WithRemarks",
    "batch_size", "count_flops", "count_parameters", "forward_logits", "index_batch",
    "inputs_of", "join_batches", "latencies", "named_stages", "pool_sizes", "promised_reach",
    "replicas", "split_labels", "thresholds_at", "throughput", "time_policies", "view_key",
    "view_of",
]  # fmt: skip
