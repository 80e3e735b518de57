"""A learned score: the estimated gain of deferring a sample, from more than one number.

It is a function of one row of logits, or of a recorded answer with its confidence, and of the
answers and confidences of the stages that ran before. Features are summed one by one, not by a
product of matrices, whose rounding depends on the batch: recorded and live outputs give the same
score to the last bit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from lit_cascade.core.scores import SCORES, Judgement, RecordedAnswers, StageOutput, row_blocks
from lit_cascade.errors import CascadeError, UsageError, check_name

FEATURES = ("max_softmax", "margin", "negative_entropy", "gap", "log_odds")
"""Features of a row of logits: the scores by these names; `gap`, the largest logit minus the
second; `log_odds`, the logarithm of p / (1 - p) for the largest class probability p, which still
differs where p itself is rounded to 1."""

RECORDED_FEATURES = ("confidence", "confidence_log_odds")
"""Features of a recorded confidence c, of any range: c, and the log-odds of c after it is limited
to 0.001 to 0.999, which spread confidences near 0 and 1."""

EARLIER_FEATURES = (
    "agrees", "confidence_agreed", "log_odds_agreed", "confidence_else", "log_odds_else",
)  # fmt: skip
"""Features of each earlier stage, followed by `_` and its number from 0: whether it gave the same
answer; and the features of its confidence, apart for samples where it did and where it did not."""

_LEAST = 1e-3
_BY_ANSWER = ("by_answer", "confidence_by_answer", "log_odds_by_answer")
_BENDS = ("knots", "bends")


def feature_names(*, recorded: bool, earlier: int) -> tuple[str, ...]:
    """Names of all features of a stage, in the order in which they are summed.

    Args:
        recorded: whether its answers are recorded, without logits.
        earlier: number of stages before it.

    Examples:
        >>> feature_names(recorded=True, earlier=1)[:3]
        ('confidence', 'confidence_log_odds', 'agrees_0')
    """
    others = (f"{name}_{k}" for k in range(earlier) for name in EARLIER_FEATURES)
    return (*(RECORDED_FEATURES if recorded else FEATURES), *others)


def _log_odds(confidence: Tensor) -> Tensor:
    limited = confidence.clamp(_LEAST, 1 - _LEAST)
    return (limited / (1 - limited)).log()


def _of_logits(logits: Tensor, rows: Tensor | None) -> tuple[list[Tensor], Tensor]:
    """Features of logits in float32, by the names in `FEATURES`, and answers."""
    columns: list[list[Tensor]] = []
    for block in row_blocks(logits, rows):
        best, answer = block.max(dim=1, keepdim=True)
        shifted, answer = block - best, answer.squeeze(1)
        scores = [SCORES[name].function(shifted.clone(), answer) for name in FEATURES[:3]]
        others = shifted.scatter(1, answer[:, None], -math.inf)
        second = others.amax(dim=1)
        # relative to the second: relative to the answer, classes far below it would round to 0
        rest = (others - second[:, None]).exp_().sum(dim=1)
        columns.append([*scores, -second, -(second + rest.log()), answer])
    *features, answers = (torch.cat(parts) for parts in zip(*columns, strict=True))
    return features, answers


def features_of(
    output: StageOutput, earlier: Sequence[Judgement] = (), rows: Tensor | None = None
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Features, answer and confidence of every sample.

    Args:
        output: logits (N, C) of any precision, computed in float32, or recorded answers.
        earlier: the stages before, on the same samples; all of them, or the first that are read.
        rows: positions of the M samples to read; by default all.

    Returns:
        One tensor (M,) float64 per name in `feature_names`, the answers (M,) int64, and the
        confidences (M,) float32: the recorded ones, or the largest class probabilities.

    Examples:
        >>> features, answers, _ = features_of(torch.tensor([[0.0, 2.0, 0.0]]))
        >>> [round(float(feature), 3) for feature in features], answers.tolist()
        ([0.787, 0.68, -0.666, 2.0, 1.307], [1])
    """
    if isinstance(output, RecordedAnswers):
        answer, confidence = output if rows is None else (part[rows] for part in output)
        own = [confidence.double(), _log_odds(confidence.double())]
    else:
        own, answer = _of_logits(output, rows)
        confidence = own[0]
        own = [feature.double() for feature in own]
    for stage in earlier:
        said, sure = stage.answer, stage.confidence
        if rows is not None:
            said, sure = said[rows], sure[rows]
        agrees, sure = said == answer, sure.double()
        pair = (sure, _log_odds(sure))
        own += [
            agrees.double(),
            *(one.where(agrees, 0.0) for one in pair),
            *(one.where(~agrees, 0.0) for one in pair),
        ]
    return own, answer, confidence


@dataclass(frozen=True)
class LogOdds:
    """Log-odds of an event: linear in the features of a stage, with bends in that of its log-odds.

    Attributes:
        bias: intercept.
        weights: one per feature.
        by_answer: added for each of the C classes that the stage may answer, or empty.
        confidence_by_answer: added to the weight of the confidence (the first feature) for each of
            the C classes, or empty.
        log_odds_by_answer: added to the weight of its log-odds, or empty.
        knots: values of the log-odds of the confidence at which its weight changes, or empty.
        bends: added to the weight of the log-odds above each knot.

    Raises:
        UsageError: numbers that are not finite, or lists of several lengths.
    """

    bias: float
    weights: tuple[float, ...]
    by_answer: tuple[float, ...] = ()
    confidence_by_answer: tuple[float, ...] = ()
    log_odds_by_answer: tuple[float, ...] = ()
    knots: tuple[float, ...] = ()
    bends: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check every number."""
        for name in ("weights", *_BY_ANSWER, *_BENDS):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        lists = [getattr(self, name) for name in _BY_ANSWER]
        for number in chain((self.bias,), self.weights, *lists, self.knots, self.bends):
            if not math.isfinite(number):
                raise UsageError(f"heads: expected finite numbers, got {number}.")
        if len({len(one) for one in lists} - {0}) > 1:
            raise UsageError(
                f"heads: expected {', '.join(_BY_ANSWER)} for the same classes, got "
                f"{', '.join(str(len(one)) for one in lists)} numbers."
            )
        if len(self.knots) != len(self.bends):
            raise UsageError(
                f"heads: expected as many bends as knots, got {len(self.bends)} and "
                f"{len(self.knots)}."
            )

    @property
    def classes(self) -> int:
        """Number of classes; 0 where the answer is not read."""
        return max(len(getattr(self, name)) for name in _BY_ANSWER)

    def probability(self, features: Sequence[Tensor], log_odds: Tensor, answer: Tensor) -> Tensor:
        """Probability of the event, (N,) float64.

        A sample with a feature of NaN or +inf has a probability of NaN, also at weight 0.

        Args:
            features: one tensor (N,) float64 per weight.
            log_odds: that of them which `log_odds_by_answer` and `bends` multiply.
            answer: of the stage, (N,) int64.
        """
        total = torch.full_like(features[0], self.bias)
        for weight, feature in zip(self.weights, features, strict=True):
            total = total + weight * feature
        for knot, bend in zip(self.knots, self.bends, strict=True):
            total = total + bend * (log_odds - knot).clamp(min=0)
        for name, factor in zip(_BY_ANSWER, (None, features[0], log_odds), strict=True):
            if numbers := getattr(self, name):
                effect = total.new_tensor(numbers)[answer]
                total = total + (effect if factor is None else effect * factor)
        return total.sigmoid()

    @classmethod
    def from_numbers(
        cls, numbers: Mapping[str, Any], names: Sequence[str], argument: str
    ) -> LogOdds:
        """The log-odds of a config: `bias`, a number per feature, and lists of numbers.

        Raises:
            UsageError: a missing or unknown name, or a value that is no number.
        """
        wanted = ("bias", *names)
        for name in numbers:
            check_name(str(name), (*wanted, *_BY_ANSWER, *_BENDS), argument)
        missing = [name for name in wanted if name not in numbers]
        if missing:
            raise UsageError(
                f"{argument}: nothing is given for {', '.join(missing)}; `lit-cascade calibrate "
                "--learn_score` writes a whole head."
            )
        try:
            bias, *weights = (float(numbers[name]) for name in wanted)
            lists = [tuple(map(float, numbers.get(name) or ())) for name in (*_BY_ANSWER, *_BENDS)]
        except (TypeError, ValueError) as error:
            raise UsageError(f"{argument}: expected numbers: {error}.") from error
        return cls(bias, tuple(weights), *lists)

    def numbers(self, names: Sequence[str]) -> dict[str, Any]:
        """The log-odds as plain numbers, for a config."""
        weights = dict(zip(names, self.weights, strict=True))
        lists = {name: list(getattr(self, name)) for name in (*_BY_ANSWER, *_BENDS)}
        return {"bias": self.bias} | weights | {name: some for name, some in lists.items() if some}


@dataclass(frozen=True)
class DeferralHead:
    """Two logistic regressions, which together estimate the gain of deferring a sample.

    The score is P(broken) - P(fixed), from -1 to 1. `fixed` is the event that this stage is wrong
    and the last one right, `broken` the other way round, so minus the score is the accuracy that
    is expected to be gained by going on (post-hoc deferral, arXiv:2307.02764). With a number per
    answer, a threshold is one threshold of the confidence per predicted class (as in FrugalML,
    arXiv:2006.07512). Logits are read as they are, so that a temperature does not change the score.

    Attributes:
        fixed: log-odds that only the last stage is right.
        broken: log-odds that only this stage is right; None for a probability of 0.
        recorded: whether the stage's answers are recorded, without logits.
        earlier: number of stages before it that are read.

    Raises:
        UsageError: another number of weights than of features, or numbers that are not finite.

    Examples:
        >>> head = DeferralHead(LogOdds(bias=1.0, weights=(-2.0, 0.0, 0.0, 0.0, 0.0)))
        >>> head.judge(torch.tensor([[0.0, 0.0], [0.0, 9.0]])).score
        tensor([-0.5000, -0.2690])
    """

    fixed: LogOdds
    broken: LogOdds | None = None
    recorded: bool = False
    earlier: int = 0

    def __post_init__(self) -> None:
        """Check the numbers of weights."""
        names = self.features
        events = [self.fixed] if self.broken is None else [self.fixed, self.broken]
        for event in events:
            if len(event.weights) != len(names):
                raise UsageError(
                    f"heads: expected one weight for each of {', '.join(names)}, "
                    f"got {len(event.weights)}."
                )
        if len({event.classes for event in events} - {0}) > 1:
            raise UsageError("heads: fixed and broken have numbers for different classes.")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in the order of the weights."""
        return feature_names(recorded=self.recorded, earlier=self.earlier)

    @property
    def classes(self) -> int:
        """Number of classes that the head was fitted for; 0 if it does not read the answer."""
        return max(self.fixed.classes, self.broken.classes if self.broken else 0)

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any], argument: str) -> DeferralHead:
        """The head of a config: `fixed` and `broken`, each with `bias` and a number per feature.

        Numbers without these two keys, as older versions wrote them, are those of `fixed`.

        Args:
            numbers: plain numbers, as the property `numbers` returns them.
            argument: the name of the option, for messages.

        Raises:
            UsageError: a missing or unknown name, or a value that is no number.

        Examples:
            >>> head = DeferralHead(LogOdds(0.5, (1.0, 2.0), (0.25, -0.25)), recorded=True)
            >>> DeferralHead.from_numbers(head.numbers, "heads") == head
            True
        """
        parts = numbers if "fixed" in numbers else {"fixed": numbers}
        for part, values in parts.items():
            check_name(str(part), ("fixed", "broken"), argument)
            if not isinstance(values, Mapping):
                raise UsageError(f"{argument}.{part}: expected numbers by name, got {values!r}.")
        given = list(map(str, parts["fixed"]))
        recorded = any(name in RECORDED_FEATURES for name in given)
        stages = [re.fullmatch(rf"(?:{'|'.join(EARLIER_FEATURES)})_(\d+)", one) for one in given]
        earlier = max((int(one[1]) + 1 for one in stages if one), default=0)
        names = feature_names(recorded=recorded, earlier=earlier)
        prefix = f"{argument}.fixed" if parts is numbers else argument
        return cls(
            fixed=LogOdds.from_numbers(parts["fixed"], names, prefix),
            broken=LogOdds.from_numbers(parts["broken"], names, f"{argument}.broken")
            if "broken" in parts
            else None,
            recorded=recorded,
            earlier=earlier,
        )

    @property
    def numbers(self) -> dict[str, Any]:
        """The head as plain numbers, for a config."""
        events = {"fixed": self.fixed} | ({} if self.broken is None else {"broken": self.broken})
        return {name: event.numbers(self.features) for name, event in events.items()}

    def judge(
        self,
        output: StageOutput,
        earlier: Sequence[Judgement] = (),
        rows: Tensor | None = None,
    ) -> Judgement:
        """Score, answer and confidence of a stage.

        A sample with logits or a confidence of NaN or +inf has a score of NaN, which reaches no
        threshold.

        Args:
            output: its logits (N, C), or its recorded answers.
            earlier: the stages before it, on the same samples.
            rows: positions of the samples to judge; by default all.

        Raises:
            CascadeError: logits where the head was fitted to recorded answers, or the other way
                round; other classes; or fewer earlier stages than it reads.
        """
        if isinstance(output, RecordedAnswers) != self.recorded:
            kinds = ("logits", "recorded answers")
            raise CascadeError(
                f"the learned score was fitted to {kinds[self.recorded]}, got "
                f"{kinds[not self.recorded]}: fit it again with `lit-cascade calibrate "
                "--learn_score`."
            )
        if len(earlier) < self.earlier:
            raise CascadeError(
                f"the learned score reads {self.earlier} earlier stages, got {len(earlier)}."
            )
        features, answer, confidence = features_of(output, earlier[: self.earlier], rows)
        if self.classes:
            if isinstance(output, RecordedAnswers):
                wrong = answer.numel() > 0 and int(answer.max()) >= self.classes
                got = f"an answer of class {int(answer.max())}" if wrong else ""
            else:
                wrong = output.shape[1] != self.classes
                got = f"logits of shape {tuple(output.shape)}"
            if wrong:
                raise CascadeError(
                    f"the learned score was fitted for {self.classes} classes, got {got}."
                )
        log_odds = features[len(RECORDED_FEATURES if self.recorded else FEATURES) - 1]
        score = -self.fixed.probability(features, log_odds, answer)
        if self.broken is not None:
            score = score + self.broken.probability(features, log_odds, answer)
        return Judgement(score.float(), answer, confidence)
