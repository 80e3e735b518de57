"""Live conditional execution: each stage runs on the samples that are still undecided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_cascade.batch import Inputs, batch_size, forward_logits, map_tensors
from lit_cascade.core.combination import prefer_later
from lit_cascade.core.policy import Policy, answers_here
from lit_cascade.core.scores import answers_of
from lit_cascade.errors import CascadeError, UsageError

__all__ = ["Cascade", "CascadeOutput"]


class CascadeOutput(NamedTuple):
    """The answers of a cascade to a batch, in the order of the batch.

    Attributes:
        logits: raw logits of the stage whose answer it is, or, where the policy averages, the
            logarithm of the mean probabilities; (N, C) float32.
        prediction: the answer, (N,) int64: their argmax, or that of the scaled logits where the
            stage has a vector scaling.
        stage: number of the last stage that ran, from 0, (N,) int64.
        score: that stage's confidence score, (N,) float32.
    """

    logits: Tensor
    prediction: Tensor
    stage: Tensor
    score: Tensor


class Cascade(nn.Module):
    """Classifiers of the same classes, cheapest first, that answer in turn.

    Stage k runs only on the samples that no earlier stage answered, gathered into one smaller
    batch; the answers are scattered back in order. Inputs may be a tensor, a tuple of tensors
    (positional arguments of every stage) or a dict of tensors (keyword arguments).

    Args:
        stages: modules in order, or a mapping of names to modules.
        policy: thresholds, score, temperatures and vector scalings for as many stages.

    Raises:
        UsageError: fewer than two stages, or a policy for another number of stages.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> cascade = Cascade([nn.Linear(4, 3), nn.Linear(4, 3)], Policy(thresholds=(0.5,)))
        >>> cascade(torch.randn(5, 4)).stage
        tensor([...])
    """

    def __init__(
        self, stages: Mapping[str, nn.Module] | Sequence[nn.Module], policy: Policy
    ) -> None:
        super().__init__()
        if not isinstance(stages, Mapping):
            stages = {f"stage{k}": stage for k, stage in enumerate(stages)}
        if len(stages) < 2:
            raise UsageError(f"stages: a cascade needs at least 2, got {len(stages)}.")
        self.names = tuple(stages)
        self.stages = nn.ModuleList(stages.values())
        self.policy = policy

    @property
    def policy(self) -> Policy:
        """What decides who answers; may be replaced at any time."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        if policy.stages != len(self.stages):
            raise UsageError(
                f"policy: the stages {', '.join(self.names)} need {len(self.stages) - 1} "
                f"thresholds, got {len(policy.thresholds)}."
            )
        self._policy = policy

    def forward(self, inputs: Inputs) -> CascadeOutput:
        """Answer a batch.

        Args:
            inputs: a batch of N samples.

        Raises:
            CascadeError: a stage whose output is not of shape (samples, classes), or stages with
                different numbers of classes.
        """
        n, last = batch_size(inputs), len(self.stages) - 1
        out = self._run(0, inputs)
        memory = self._remembered(out)
        undecided = self._deferred(0, out.score)
        for k in range(1, last + 1):
            if len(undecided) == 0:
                break
            left = inputs if len(undecided) == n else map_tensors(inputs, undecided)
            found = self._run(k, left)
            if found.logits.shape[1] != out.logits.shape[1]:
                raise CascadeError(
                    f"stage {self.names[k]!r} has {found.logits.shape[1]} classes, "
                    f"stage {self.names[0]!r} has {out.logits.shape[1]}."
                )
            said = self._combined(k, found, out, memory, undecided)
            for whole, part in zip(out, said, strict=True):
                whole[undecided] = part
            if k < last:
                undecided = undecided[self._deferred(k, found.score)]
        return out

    def _run(self, k: int, inputs: Inputs) -> CascadeOutput:
        logits = forward_logits(self.stages[k], inputs, self.names[k])
        logits = logits.to(torch.float32, copy=True)  # later answers are written into it
        score, answer = self.policy.score_and_answer(k, logits)
        return CascadeOutput(logits, answer, torch.full_like(answer, k), score)

    def _deferred(self, k: int, score: Tensor) -> Tensor:
        answered = answers_here(score, self.policy.thresholds[k], self.policy.floors[k])
        return (~answered).nonzero().squeeze(1)

    def _remembered(self, first: CascadeOutput) -> Tensor | None:
        """What later stages are combined with: total probabilities, or the best score so far."""
        if self.policy.combine == "average":
            return self.policy.probabilities(0, first.logits)
        return first.score.clone() if self.policy.combine == "most_confident" else None

    def _combined(
        self,
        k: int,
        found: CascadeOutput,
        out: CascadeOutput,
        memory: Tensor | None,
        rows: Tensor,
    ) -> CascadeOutput:
        """What the cascade says on `rows` after stage k, as `core.combination` has it."""
        if memory is None:
            return found
        if self.policy.combine == "average":
            memory[rows] += self.policy.probabilities(k, found.logits)
            total = memory[rows]
            answer = answers_of(total)
            return found._replace(logits=_log_of(total / (k + 1), answer), prediction=answer)
        chosen = prefer_later(memory[rows], found.score)
        memory[rows] = torch.where(chosen, found.score, memory[rows])
        return found._replace(
            logits=torch.where(chosen[:, None], found.logits, out.logits[rows]),
            prediction=torch.where(chosen, found.prediction, out.prediction[rows]),
        )


def _log_of(mean: Tensor, answer: Tensor) -> Tensor:
    """The logarithm of probabilities (N, C): finite, and largest at the answer alone.

    Probabilities may underflow, and a logarithm may round two of them to the same number.
    """
    logs = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
    best = logs.gather(1, answer[:, None])
    below = best.detach().nextafter(torch.full_like(best, -math.inf))
    return logs.minimum(below).scatter(1, answer[:, None], best)
