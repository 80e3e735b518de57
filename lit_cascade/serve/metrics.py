"""Names and buckets of what a served cascade exposes to Prometheus; loads no torch.

`lit-cascade check --metrics` reads the same names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

SAMPLES = "lit_cascade_samples_total"
"""Counter of samples, labels `stage` and `outcome`: `answered` or `deferred` by a stage that ran on
them, or `failed` there. Samples of audits are not counted."""

SCORE = "lit_cascade_score"
"""Histogram of the scores of a deferring stage, label `stage`; buckets by `score_buckets`."""

AUDITS = "lit_cascade_audits_total"
"""Counter of answers that were compared with the last stage's, labels `stage`, which gave the
answer, and `outcome`: `agreed` or `disagreed`."""

STAGE_SECONDS = "lit_cascade_stage_seconds"
"""Histogram of the seconds that a stage took for a batch, with preprocessing, label `stage`."""

QUEUE_SECONDS = "lit_cascade_queue_seconds"
"""Histogram of the seconds that a sample waited for a stage, label `stage`."""

BATCH_SIZE = "lit_cascade_batch_size"
"""Histogram of the samples in a batch, label `stage`."""

WAITING = "lit_cascade_waiting"
"""Gauge of the samples that wait for a stage, label `stage`."""

RESTARTS = "lit_cascade_worker_restarts_total"
"""Counter of the workers of a stage that died and were started again, label `stage`."""

REQUESTS = "lit_cascade_requests_total"
"""Counter of HTTP requests for answers, label `code`, the status."""

REQUEST_SECONDS = "lit_cascade_request_seconds"
"""Histogram of the seconds from a request to its answer, label `stage`, which answered."""

COST = "lit_cascade_cost"
"""Gauge of the cost of a sample at a stage, labels `stage` and `unit`: `flops` of the example, and
`latency_s`, the share of a sample in the time of a full batch, measured at the start."""

THRESHOLD = "lit_cascade_threshold"
"""Gauge of the threshold of a deferring stage, label `stage`."""

PROMISED_DEFERRAL = "lit_cascade_promised_deferral_ratio"
"""Gauge of the share of the samples reaching a stage that it deferred when the policy was chosen,
label `stage`; absent where the policy has no evidence."""

PRESENT_DEFERRAL = "lit_cascade_deferral_ratio"
"""Gauge of the share that a stage has deferred since the server started, label `stage`."""

POLICY = "lit_cascade_policy_info"
"""Gauge of 1 with the labels `fingerprint` (`Policy.fingerprint`), `score` and `stages`."""

SECONDS_BUCKETS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SHARES = tuple(k / 20 for k in range(1, 20))


def score_buckets(
    evidence: Mapping[str, Any] | None, stage: str, low: float = 0.0, high: float = 1.0
) -> tuple[float, ...]:
    """Upper bounds of the buckets of a stage's scores, without +inf.

    They are the edges of the scores that the policy was chosen on, `evidence.scores.STAGE.edges`.
    A bucket of Prometheus counts scores up to its bound, a bin of the evidence those below its
    edge: each bound is the next number below an edge, so that the counts are the same.

    Args:
        evidence: of the policy.
        stage: name of the stage.
        low: least score, for a policy without evidence, whose buckets have equal widths.
        high: largest score.

    Examples:
        >>> score_buckets({"scores": {"small": {"edges": [0.5]}}}, "small")
        (0.49999999999999994,)
    """
    summary = _summary(evidence, stage)
    if summary is not None:
        edges: Sequence[float] = [float(edge) for edge in summary.get("edges", ())]
    else:
        finite = math.isfinite(low) and math.isfinite(high)
        edges = [low + share * (high - low) for share in _SHARES] if finite else []
    return tuple(math.nextafter(edge, -math.inf) for edge in edges)


def promised_deferral(evidence: Mapping[str, Any] | None, stage: str) -> float | None:
    """Share of the samples reaching a stage that it deferred when the policy was chosen.

    Examples:
        >>> promised_deferral({"scores": {"small": {"n": 10, "deferred": 1}}}, "small")
        0.1
    """
    summary = _summary(evidence, stage)
    if summary is None or not summary.get("n"):
        return None
    return float(summary["deferred"]) / float(summary["n"])


def _summary(evidence: Mapping[str, Any] | None, stage: str) -> Mapping[str, Any] | None:
    scores = (evidence or {}).get("scores")
    summary = scores.get(stage) if isinstance(scores, Mapping) else None
    return summary if isinstance(summary, Mapping) else None
