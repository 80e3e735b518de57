"""The policy of a cascade: the numbers that decide which stage answers a sample.

How they decide is the contract, `lit_cascade.core.contract`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.deferral_head import DeferralHead
from lit_cascade.core.scores import (
    AGREEMENT,
    LEARNED,
    MAX_LOGIT_PNORM,
    RECORDED,
    Judgement,
    RecordedAnswers,
    Score,
    StageOutput,
    agreement,
    max_logit_pnorm,
    probabilities_of,
    score_and_answer,
    score_named,
)
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.options import Norm, PolicyOptions, norm_of
from lit_cascade.utilities.tabular import Tabular, described

_RECORDED = "recorded_scores"
"""Key of the evidence for thresholds that apply to scores which the records hold."""
_OWN = (LEARNED.name, AGREEMENT.name, MAX_LOGIT_PNORM.name)
"""Scores that a recorded one never stands for."""
_NOT_OF_LOGITS = (RECORDED.name, *_OWN)
_NOT_COMPARED = {
    LEARNED.name: "estimates how useful it is to defer, and the last stage has none to compare",
    MAX_LOGIT_PNORM.name: "has another norm and range for each stage, and the last stage has none",
}
"""Why the scores of two stages do not tell which of them is more confident."""


@dataclass(frozen=True)
class Policy(Tabular):
    """Score, thresholds and temperatures of a cascade, checked.

    Attributes:
        thresholds: one per stage but the last, in stage order; a number stands for one threshold;
            `-inf` never defers, `+inf` always. None while they are undecided.
        score: a name in `lit_cascade.core.scores.SCORES`, `recorded`, `learned`, `agreement` or
            `max_logit_pnorm`.
        temperatures: one per stage; by default 1 for each. The scores `learned` and
            `max_logit_pnorm` do not read them.
        combine: a name in `lit_cascade.core.combination.COMBINATIONS`: whose answer counts after a
            deferral.
        floors: one per stage but the last and not above its threshold: a stage also answers below
            its floor. By default `-inf` for each, so that no score is below.
        heads: one per stage but the last where the score is `learned`, and none otherwise.
        norms: one per stage but the last where the score is `max_logit_pnorm`, and none otherwise:
            the p of its norm, or `max_softmax` for that score instead.
        stages: number of stages K; by default that of the thresholds, or else of the temperatures.
        names: of the stages, cheapest first; empty if they are unknown. Not compared.
        evidence: samples that the numbers were fitted on, and what they promise, as plain values
            (`lit_cascade.select` and `lit_cascade.calibrate` fill it in). Not compared.

    Raises:
        UsageError: a threshold that is NaN or that the score cannot reach, a floor above its
            threshold, a temperature that is not a positive finite number, a norm below 1, an
            unknown name, lengths that do not fit each other, or `most_confident` with a score that
            does not compare stages.

    Examples:
        >>> Policy(0.9).temperatures
        (1.0, 1.0)
        >>> Policy(stages=3).thresholds is None
        True
    """

    thresholds: tuple[float, ...] | None = None
    score: str = "max_softmax"
    temperatures: tuple[float, ...] = ()
    combine: str = "later"
    floors: tuple[float, ...] = ()
    heads: tuple[DeferralHead, ...] = ()
    norms: tuple[Norm, ...] = ()
    stages: int = 0
    names: tuple[str, ...] = field(default=(), compare=False)
    evidence: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    if TYPE_CHECKING:  # what `__post_init__` makes numbers and tuples of

        def __init__(
            self,
            thresholds: float | Sequence[float] | None = None,
            score: str = "max_softmax",
            temperatures: Sequence[float] = (),
            combine: str = "later",
            floors: Sequence[float] = (),
            heads: Sequence[DeferralHead] = (),
            norms: Sequence[Norm] = (),
            stages: int = 0,
            names: Sequence[str] = (),
            evidence: Mapping[str, Any] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Fill in what is not given, and check every number."""
        thresholds = None if self.thresholds is None else _numbers(self.thresholds, "thresholds")
        temperatures = _numbers(self.temperatures, "temperatures")
        names = tuple(self.names)
        given = len(temperatures or names) if thresholds is None else len(thresholds) + 1
        stages = self.stages or given
        filled = {
            "thresholds": thresholds,
            "stages": stages,
            "temperatures": temperatures or (1.0,) * stages,
            "floors": _numbers(self.floors, "floors") or (-math.inf,) * (stages - 1),
            "heads": tuple(self.heads),
            "norms": tuple(map(norm_of, self.norms)),
            "names": names,
            "evidence": self.evidence or {},
        }
        for name, value in filled.items():
            object.__setattr__(self, name, value)
        check_name(self.combine, COMBINATIONS, "combine")
        self._check_lengths()
        for temperature in self.temperatures:
            if not (temperature > 0 and math.isfinite(temperature)):
                raise UsageError(
                    f"temperatures: expected finite numbers above 0, got {temperature}."
                )
        self._check_thresholds(thresholds or ())

    def _check_lengths(self) -> None:
        deferring = self.stages - 1
        if self.thresholds is not None and len(self.thresholds) != deferring:
            raise UsageError(
                f"thresholds: a cascade of {self.stages} stages needs {deferring}, "
                f"got {len(self.thresholds)}."
            )
        if self.stages < 2:
            raise UsageError(f"stages: a cascade needs at least 2, got {self.stages}.")
        if len(self.floors) != deferring:
            raise UsageError(
                f"floors: expected one per threshold ({deferring}), got {len(self.floors)}."
            )
        if len(self.temperatures) != self.stages:
            raise UsageError(
                f"temperatures: expected one for each of {self.stages} stages, "
                f"got {len(self.temperatures)}."
            )
        if self.names and not len(set(self.names)) == len(self.names) == self.stages:
            raise UsageError(
                f"names: expected {self.stages} distinct names of stages, "
                f"got {', '.join(map(str, self.names))}."
            )
        fitted = ("heads", LEARNED, self.heads), ("norms", MAX_LOGIT_PNORM, self.norms)
        for part, score, values in fitted:
            needed = deferring if self.score == score.name else 0
            if len(values) != needed:
                raise UsageError(
                    f"{part}: the score {self.score!r} of {deferring} deferring stages needs "
                    f"{needed}, got {len(values)}."
                )
        if self.combine == "most_confident" and self.score in _NOT_COMPARED:
            raise UsageError(
                f"combine: the score {self.score} {_NOT_COMPARED[self.score]}; use later or "
                "average with it."
            )

    def _check_thresholds(self, thresholds: tuple[float, ...]) -> None:
        score = score_named(self.score)
        for threshold in thresholds:
            if math.isnan(threshold):
                raise UsageError("thresholds: NaN is no threshold; -inf never defers, +inf always.")
            if math.isfinite(threshold) and not score.low <= threshold <= score.high:
                raise UsageError(
                    f"thresholds: {threshold} is outside the range of the score {score.name!r}, "
                    f"{score.low:g} to {score.high:g}; use -inf to never defer, +inf to always."
                )
        ceilings = thresholds or (math.inf,) * len(self.floors)
        for floor, threshold in zip(self.floors, ceilings, strict=True):
            if not floor <= threshold:
                raise UsageError(
                    f"floors: {floor} is above its threshold {threshold}: nothing would be "
                    "deferred. Samples are deferred from the floor up to the threshold."
                )

    def __repr__(self) -> str:
        """What differs from the defaults; a program that makes the policy, but for heads."""
        thresholds, scaled = self.thresholds, set(self.temperatures) != {1.0}
        given = {
            "score": repr(self.score) if self.score != "max_softmax" else "",
            "temperatures": _literal(self.temperatures) if scaled else "",
            "combine": repr(self.combine) if self.combine != "later" else "",
            "floors": _literal(self.floors) if max(self.floors) > -math.inf else "",
            "heads": f"<{len(self.heads)} learned>" if self.heads else "",
            "norms": repr(self.norms) if self.norms else "",
            "names": repr(self.names) if self.names else "",
        }
        if thresholds is None and not (scaled or self.names):
            given["stages"] = str(self.stages)
        parts = [f"{name}={value}" for name, value in given.items() if value]
        if thresholds is not None:
            parts.insert(0, _literal(thresholds))
        return described("Policy", *parts)

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per stage: `stage, threshold, temperature`, and `floor, norm` if there are any.

        What the last stage has none of, and thresholds that are undecided, are NaN.
        """
        none = (math.nan,)
        columns: dict[str, Sequence[Any]] = {
            "stage": self.names or tuple(f"stage{k}" for k in range(self.stages)),
            "threshold": (self.thresholds or none * (self.stages - 1)) + none,
            "temperature": self.temperatures,
        }
        if max(self.floors) > -math.inf:
            columns["floor"] = self.floors + none
        if self.norms:
            columns["norm"] = self.norms + none
        return columns

    @classmethod
    def of(cls, policy: PolicyLike, names: Sequence[str]) -> Policy:
        """The policy of named stages, from any form that a policy is given in.

        Args:
            policy: a policy, its options, these as plain values (`to_dict`), its thresholds, or
                None for one that is undecided.
            names: of the stages, cheapest first.

        Raises:
            UsageError: a policy for other stages, or something that is no policy.

        Examples:
            >>> Policy.of(0.9, ["small", "large"]).thresholds
            (0.9,)
        """
        names = tuple(names)
        if isinstance(policy, Mapping):
            policy = PolicyOptions.from_mapping(policy, "policy")
        if isinstance(policy, PolicyOptions):
            return cls.from_options(policy, names)
        if not isinstance(policy, Policy):
            return cls(policy, stages=len(names), names=names)
        if policy.stages != len(names):
            raise UsageError(
                f"policy: the stages {', '.join(names)} need {len(names) - 1} thresholds, "
                f"got {policy.stages - 1}."
            )
        if policy.names and policy.names != names:
            raise UsageError(
                f"policy: it is for the stages {', '.join(policy.names)}; these are "
                f"{', '.join(names)}."
            )
        return policy if policy.names else replace(policy, names=names)

    @classmethod
    def from_options(
        cls, options: PolicyOptions, names: Sequence[str], *, recorded: bool = False
    ) -> Policy:
        """The policy that a user's options describe; undecided if they have no thresholds.

        Args:
            options: what the user gave.
            names: of the stages, cheapest first.
            recorded: whether scores are those that the records hold, of whatever range.

        Raises:
            UsageError: an unknown stage, a wrong length, a number out of range, or a learned score
                without heads.

        Examples:
            >>> Policy.from_options(PolicyOptions(thresholds={"small": 0.9}), ["small", "large"])
            Policy(0.9, names=('small', 'large'))
        """
        recorded = recorded or bool((options.evidence or {}).get(_RECORDED))
        recorded = recorded and options.score not in _OWN
        heads = zip(names, options.heads_of(names), strict=False)
        return cls(
            thresholds=options.thresholds_of(names),
            score=RECORDED.name if recorded else options.score,
            temperatures=options.temperatures_of(names),
            combine=options.combine,
            floors=options.floors_of(names),
            heads=tuple(
                DeferralHead.from_numbers(numbers, f"policy.heads.{name}")
                for name, numbers in heads
            ),
            norms=options.norms_of(names),
            names=tuple(names),
            evidence=options.evidence or {},
        )

    def to_options(self) -> PolicyOptions:
        """The policy as options with plain numbers, by stage name if the names are known."""
        numbers: dict[str, tuple[Any, ...] | None] = {
            "thresholds": self.thresholds,
            "temperatures": self.temperatures,
            "norms": self.norms or None,
        }
        if any(floor > -math.inf for floor in self.floors):
            numbers["floors"] = self.floors
        names = self.names or tuple(f"stage{k}" for k in range(self.stages))
        by_stage: dict[str, Any] = {
            key: dict(zip(names, values, strict=False)) if self.names else list(values)
            for key, values in numbers.items()
            if values is not None
        }
        heads = {name: head.numbers for name, head in zip(names, self.heads, strict=False)}
        return PolicyOptions(
            score=self.score,  # type: ignore[arg-type] # `recorded` is that of the records
            combine=self.combine,  # type: ignore[arg-type]
            heads=heads or None,
            evidence=dict(self.evidence) or None,
            **by_stage,
        )

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain values, as the file of `save` holds them under `policy`."""
        options = self.to_options()
        values = {one.name: getattr(options, one.name) for one in fields(options)}
        if values["score"] == RECORDED.name:  # no option: the records say it
            del values["score"]
            values["evidence"] = {**self.evidence, _RECORDED: True}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides answers, 16 hexadecimal digits; not of the evidence.

        Examples:
            >>> Policy(0.9).fingerprint == Policy(0.9, evidence={"n": 1}).fingerprint
            True
        """
        deciding = {key: value for key, value in self.to_dict().items() if key != "evidence"}
        text = json.dumps({"stages": self.names, **deciding}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def save(self, path: Path | str, comment: str = "") -> None:
        """Write the policy as YAML, whole or not at all: a config that every command takes.

        Args:
            path: of the file; an older one is replaced.
            comment: lines above the policy.

        Raises:
            UsageError: a place that cannot be written to.

        Examples:
            >>> path = getfixture("tmp_path") / "policy.yaml"
            >>> Policy(0.9, names=("small", "large")).save(path)
            >>> Policy.load(path).names
            ('small', 'large')
        """
        from lit_cascade.utilities.files import write_atomically, yaml_text  # noqa: PLC0415

        text = yaml_text({"policy": self.to_dict()}, comment)
        write_atomically(Path(path), text.encode())

    @classmethod
    def load(cls, path: Path | str, names: Sequence[str] = ()) -> Policy:
        """Read a policy from the YAML that `save`, or one of the commands, has written.

        Args:
            path: of the file.
            names: of the stages, cheapest first; by default those in the file.

        Raises:
            UsageError: no such file, a file without a policy, or a policy for other stages.
        """
        from lit_cascade.utilities.files import read_yaml  # noqa: PLC0415

        content = read_yaml(Path(path), "policy")
        options = PolicyOptions.from_mapping(content.get("policy", content), f"policy: {path!s}")
        known = tuple(names) or options.stage_names
        if known:
            return cls.from_options(options, known)
        if options.thresholds is None:
            raise UsageError(
                f"policy: {str(path)!r} does not name all stages: give names=[...], cheapest first."
            )
        # the last stage has no threshold, and a policy can do without its name
        deferring = options.thresholds
        keys = deferring if isinstance(deferring, Mapping) else range(len(deferring))
        return replace(cls.from_options(options, [*map(str, keys), "last"]), names=())

    def required_thresholds(self, names: Sequence[str] = ()) -> tuple[float, ...]:
        """The thresholds, where a cascade cannot do without.

        Args:
            names: of the stages, for the message.

        Raises:
            UsageError: they are undecided.
        """
        if self.thresholds is None:
            which = ", ".join(names[:-1]) or f"each of {self.stages - 1} deferring stages"
            raise UsageError(
                f"policy.thresholds: running a cascade needs a threshold for {which}; "
                "`lit-cascade validate` lists some."
            )
        return self.thresholds

    @property
    def reads_earlier(self) -> bool:
        """Whether a stage's score depends on what the stages before it said."""
        return self.score == AGREEMENT.name or any(head.earlier for head in self.heads)

    @property
    def own_score(self) -> bool:
        """Whether no score that a record holds instead of logits stands for that of the policy."""
        return self.score in _OWN

    def judge(
        self, stage: int, output: StageOutput, earlier: Sequence[Judgement] = ()
    ) -> Judgement:
        """Score, answer and confidence of a stage.

        The confidence is the score itself where that is a function of logits, else the largest
        class probability, or the recorded confidence of a stage without logits. It stands for the
        score where the policy's own is not defined: for a stage with logits among stages with
        `recorded` scores, and for the last stage where the score is `learned` or
        `max_logit_pnorm`.

        Args:
            stage: its number, from 0.
            output: its logits (N, C), or its recorded answers.
            earlier: judgements of all stages before it, on the same samples; only read where
                `reads_earlier`.

        Raises:
            CascadeError: recorded answers where the score or a temperature needs logits, or a score
                of fewer classes than it is defined for.
        """
        if stage < len(self.heads):
            return self.heads[stage].judge(output, earlier)
        if isinstance(output, RecordedAnswers):
            if stage < len(self.norms):
                raise CascadeError(
                    f"{self._named(stage)}: its record holds no logits, which the score "
                    f"{self.score} needs."
                )
            answer, confidence = output
            if self.temperatures[stage] != 1.0:
                raise CascadeError(
                    f"{self._named(stage)}: its record holds no logits, which a temperature needs."
                )
            if self.score == AGREEMENT.name:
                self._check_confidence(stage, confidence)
        else:
            confidence, answer = score_and_answer(output, *self.confidence_of(stage))
        if self.score == AGREEMENT.name:
            return Judgement(agreement(confidence, answer, earlier), answer, confidence)
        return Judgement(confidence, answer, confidence)

    def confidence_of(self, stage: int) -> tuple[Score, float]:
        """The score that is the confidence of a stage with logits, and the temperature it is of.

        Examples:
            >>> policy = Policy(0.9, score="agreement", temperatures=(2, 1))
            >>> score, temperature = policy.confidence_of(0)
            >>> score.name, temperature
            ('max_softmax', 2.0)
        """
        if stage < len(self.norms):
            return max_logit_pnorm(self.norms[stage]), 1.0
        name = "max_softmax" if self.score in _NOT_OF_LOGITS else self.score
        return score_named(name), self.temperatures[stage]

    def _check_confidence(self, stage: int, confidence: Tensor) -> None:
        """Check that an agreement counts more than any confidence.

        Raises:
            CascadeError: confidences outside of 0 to 1.
        """
        low, high = (float(end) for end in confidence.aminmax()) if len(confidence) else (0.0, 1.0)
        if not 0.0 <= low <= high <= 1.0:
            raise CascadeError(
                "policy.score: agreement adds 1 to a confidence from 0 to 1, and the recorded "
                f"scores of {self._named(stage)} go from {low:.6g} to {high:.6g}. Import them as "
                "probabilities, or import its predictions without --score: it then only votes."
            )

    def _named(self, stage: int) -> str:
        return repr(self.names[stage]) if self.names else f"stage {stage}"

    def probabilities(self, stage: int, logits: Tensor) -> Tensor:
        """Class probabilities (N, C) float32 of a stage, from its logits."""
        return probabilities_of(logits, self.temperatures[stage])


PolicyLike = Policy | PolicyOptions | Mapping[str, Any] | float | Sequence[float] | None
"""Forms that a policy is given in: see `Policy.of`."""


def _numbers(values: Any, argument: str) -> tuple[float, ...]:
    """Numbers of a policy; one stands for itself.

    Raises:
        UsageError: something else.
    """
    numbers: tuple[float, ...] | None = None
    with suppress(TypeError, ValueError, RuntimeError):
        one = not hasattr(values, "__iter__") or getattr(values, "ndim", 1) == 0
        if not isinstance(values, str):
            numbers = (float(values),) if one else tuple(map(float, values))
    if numbers is None:
        raise UsageError(
            f"{argument}: expected a number, or one per stage, such as 0.9 or [0.9, 0.8]; got "
            f"{_described(values)}."
        )
    return numbers


def _literal(numbers: Sequence[float]) -> str:
    """Numbers as Python reads them; one stands for itself."""
    texts = [repr(n) if math.isfinite(n) else f"float('{n}')" for n in numbers]
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"


def _described(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"a {type(value).__name__}"
