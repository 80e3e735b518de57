"""The learned score of `lit-cascade calibrate --learn_score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from lit_cascade.options import PolicyOptions
    from lit_cascade.records import Record

__all__ = ["check_learnable", "with_learned_score"]


def check_learnable(given: PolicyOptions, *, learn: bool) -> None:
    """Check, before any work, that the policy of a config can have a learned score.

    Raises:
        UsageError: its answers are combined by scores.
    """
    from lit_cascade.errors import UsageError

    if learn and given.combine == "most_confident":
        raise UsageError(
            "--learn_score: policy.combine is most_confident, which compares scores of stages, "
            "and a learned score says how useful it is to defer; expected later or average."
        )


def with_learned_score(
    overlay: dict[str, Any],
    records: Sequence[Record],
    given: PolicyOptions,
    *,
    learn: bool,
    rows: Tensor | None = None,
) -> dict[str, Any]:
    """The overlay of a policy with a learned score: fitted, printed, and with its evidence.

    Args:
        overlay: the policy so far, with its evidence.
        records: of the stages on the samples to fit on.
        given: the policy of the config.
        learn: whether to fit one; else that of the config keeps its evidence.
        rows: which samples to fit on; by default all.

    Raises:
        CascadeError: a record without logits, or too little to learn from.
    """
    from lit_cascade.analysis import fit_heads, fitted_on
    from lit_cascade.core import rule_of
    from lit_cascade.report import head_summary, print_heads

    evidence = dict(overlay["evidence"])
    if not learn:
        if "heads" in (given.evidence or {}):
            evidence["heads"] = (given.evidence or {})["heads"]
        return overlay | {"evidence": evidence}
    names = [record.name for record in records]
    plain = replace(given, score="max_softmax", temperatures=overlay.get("temperatures"))
    fitted = fit_heads(records, rule_of(plain, names), rows)
    print_heads(fitted)
    evidence["heads"] = fitted_on(records[0], rows) | {
        "fits": {name: head_summary(found) for name, found in fitted.items()}
    }
    heads = {name: found.head.numbers for name, found in fitted.items()}
    return overlay | {"score": "learned", "heads": heads, "evidence": evidence}
