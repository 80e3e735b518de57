"""Live conditional execution: each stage runs on the samples that the earlier ones deferred."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_cascade.core import (
    Judgement,
    Policy,
    PolicyLike,
    answers_here,
    answers_of,
    prefer_later,
)
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live.batch import Inputs, batch_size, forward_logits, index_batch
from lit_cascade.options import PolicyOptions


class CascadeOutput(NamedTuple):
    """Answers of a cascade to a batch, in the order of the batch.

    Attributes:
        logits: raw logits of the stage whose answer counts, (N, C) float32; where the policy
            averages, the logarithm of the mean probabilities.
        prediction: answer, the argmax of `logits`, (N,) int64.
        stage: number of the last stage that ran, from 0, (N,) int64.
        score: confidence score of the last stage that ran, (N,) float32.
        chosen: number of the stage whose answer counts, (N,) int64: the last that ran, or with
            `most_confident` the one with the highest score.
    """

    logits: Tensor
    prediction: Tensor
    stage: Tensor
    score: Tensor
    chosen: Tensor


class Step(NamedTuple):
    """State of a batch after one stage of a cascade.

    Attributes:
        output: answers if the cascade stopped here.
        deferred: whether each sample is deferred to the next stage, (N,) bool; None after the last
            stage, and of samples taken to the next one.
        memory: state that later answers are combined with: the sum of the probabilities (N, C), or
            the highest score so far (N,); None where the later answer counts alone.
        judged: what each stage so far said, where the scores of later stages read it.
    """

    output: CascadeOutput
    deferred: Tensor | None = None
    memory: Tensor | None = None
    judged: tuple[Judgement, ...] = ()

    def take(self, rows: Tensor | slice) -> Step:
        """Select some of the samples, for the next stage."""
        memory = None if self.memory is None else self.memory[rows]
        output = CascadeOutput(*(tensor[rows] for tensor in self.output))
        judged = tuple(Judgement(*(tensor[rows] for tensor in one)) for one in self.judged)
        return Step(output, memory=memory, judged=judged)

    @staticmethod
    def join(steps: Sequence[Step]) -> Step:
        """Concatenate the steps of one stage on several batches, for the next stage."""
        memories = [one.memory for one in steps if one.memory is not None]
        stages = zip(*(one.judged for one in steps), strict=True)
        return Step(
            CascadeOutput(*map(torch.cat, zip(*(one.output for one in steps), strict=True))),
            memory=torch.cat(memories) if memories else None,
            judged=tuple(Judgement(*map(torch.cat, zip(*one, strict=True))) for one in stages),
        )


def named_stages(
    stages: Any,
    policy: PolicyLike = None,
    kinds: tuple[type, ...] = (nn.Module,),
    expected: str = "an nn.Module",
) -> dict[str, Any]:
    """Stages by name, cheapest first.

    Args:
        stages: two or more, as a mapping by name, or in order. Without names of their own they get
            those of the policy, or else `stage0`, `stage1`, ...
        policy: of the cascade.
        kinds: what a stage may be.
        expected: the same in words, for the message.

    Raises:
        UsageError: fewer than two stages, something else, or names that are no strings.
    """
    if isinstance(stages, Mapping | nn.ModuleDict):
        by_name = dict(stages.items())
    elif isinstance(stages, Sequence | nn.ModuleList) and not isinstance(stages, str):
        names: tuple[str, ...] = ()
        if isinstance(policy, Policy | PolicyOptions):
            names = policy.names if isinstance(policy, Policy) else policy.stage_names
        if len(names) != len(stages):
            names = tuple(f"stage{k}" for k in range(len(stages)))
        by_name = dict(zip(names, stages, strict=True))
    else:
        raise UsageError(
            "stages: expected the modules as a list, cheapest first, or as a dict by name; "
            f"got {_kind(stages)}."
        )
    if len(by_name) < 2:
        got = f" ({', '.join(map(str, by_name))})" if by_name else ""
        raise UsageError(f"stages: a cascade needs at least 2, got {len(by_name)}{got}.")
    for name, stage in by_name.items():
        if not isinstance(name, str):
            raise UsageError(f"stages: expected names as keys, got {name!r}.")
        if not isinstance(stage, kinds):
            raise UsageError(f"stages: {name!r} must be {expected}, got {_kind(stage)}.")
    return by_name


def _kind(value: Any) -> str:
    """The kind of a value, for messages."""
    if isinstance(value, type):
        return f"the class {value.__name__}; make one: {value.__name__}(...)"
    article = "an" if type(value).__name__[0] in "AEIOUaeiou" else "a"
    return f"{article} {type(value).__name__}"


class Cascade(nn.Module):
    """A cascade of classifiers of the same classes, cheapest first.

    Stage k runs only on the samples that no earlier stage answered, gathered into one smaller
    batch; the answers are scattered back in order. The output of a stage is never modified; where
    one stage answers the whole batch, the logits may share its memory. Inputs may be a tensor, a
    tuple of tensors (positional arguments of every stage) or a dict of tensors (keyword arguments).

    Args:
        stages: modules in order, or a mapping of names to modules.
        policy: score, thresholds and temperatures for as many stages; or the thresholds alone, one
            number if there are two stages. None leaves them undecided.

    Raises:
        UsageError: fewer than two stages, stages that are no modules, or a policy for others.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> cascade = Cascade([nn.Linear(4, 3), nn.Linear(4, 3)], 0.5)
        >>> cascade(torch.randn(5, 4)).stage
        tensor([...])
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module] | Sequence[nn.Module],
        policy: PolicyLike = None,
    ) -> None:
        super().__init__()
        by_name = named_stages(stages, policy)
        self.names = tuple(by_name)
        self.stages = nn.ModuleList(by_name.values())
        self.policy = Policy.of(policy, self.names)

    @property
    def policy(self) -> Policy:
        """Score, thresholds and temperatures; any form that `Cascade` takes may be assigned."""
        return self._policy

    @policy.setter
    def policy(self, policy: PolicyLike) -> None:
        self._policy = Policy.of(policy, self.names)

    def get_extra_state(self) -> Tensor:
        """The policy for `state_dict`, as the bytes of JSON.

        A state dict of tensors alone can be saved as safetensors and loads with `weights_only`.
        """
        state = {"names": self.names, "policy": self._policy.to_dict()}
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the policy of a `state_dict`. The stages keep their names.

        Raises:
            UsageError: the policy of another number of stages.
        """
        saved = json.loads(bytes(state.cpu().tolist()))
        options = PolicyOptions.from_mapping(saved["policy"], "state_dict")
        policy = Policy.from_options(options, saved["names"])
        self.policy = replace(policy, names=())

    def forward(self, inputs: Inputs) -> CascadeOutput:
        """Answer a batch.

        Args:
            inputs: a batch of N samples.

        Raises:
            UsageError: the thresholds of the policy are undecided.
            CascadeError: a stage whose output is not of shape (samples, classes), or stages with
                different numbers of classes.
        """
        batch_size(inputs)  # raises for inputs that are no batch
        step = self.step(0, inputs)
        out, rows, k = step.output, None, 0
        while step.deferred is not None:
            deferred, k = _deferred_rows(step.deferred), k + 1
            if deferred is not None:
                if deferred.numel() == 0:
                    break
                if rows is None:  # a copy, since later answers are written into it
                    out, rows = CascadeOutput(*(column.clone() for column in out)), deferred
                else:
                    rows = rows[deferred]
                step = step.take(deferred)
            step = self.step(k, inputs if rows is None else index_batch(inputs, rows), step)
            if rows is None:  # everything was deferred so far
                out = step.output
                continue
            for whole, part in zip(out, step.output, strict=True):
                whole[rows] = part
        return out

    def step(self, k: int, inputs: Inputs, before: Step | None = None) -> Step:
        """Run one stage on a batch.

        Args:
            k: number of the stage, from 0.
            inputs: a batch of N samples, all of which the earlier stages deferred.
            before: the step of the previous stage for the same samples; None for the first.

        Raises:
            CascadeError: as for `forward`.
        """
        policy = self._policy
        logits = self.run_stage(k, inputs).float()
        if before is not None and logits.shape[1] != before.output.logits.shape[1]:
            raise CascadeError(
                f"stage {self.names[k]!r} has {logits.shape[1]} classes, stage "
                f"{self.names[k - 1]!r} has {before.output.logits.shape[1]}."
            )
        earlier = () if before is None else before.judged
        judgement = policy.judge(k, logits, earlier)
        score, answer, _ = judgement
        stage = torch.full_like(answer, k)
        output = CascadeOutput(logits, answer, stage, score, stage)
        deferred = None
        if k < policy.stages - 1:
            threshold = policy.required_thresholds(self.names)[k]
            deferred = answers_here(score, threshold, policy.floors[k]).logical_not_()
        judged = (*earlier, judgement) if policy.reads_earlier else ()
        step = Step(output, deferred, judged=judged)
        return step if policy.combine == "later" else self._combined(k, step, before)

    def probability(self, output: CascadeOutput) -> Tensor:
        """Probability (N,) float32 of each answer, at the temperature of the chosen stage."""
        return self._probabilities(output, output.prediction[:, None]).squeeze(1)

    def likeliest(self, output: CascadeOutput, k: int) -> tuple[Tensor, Tensor]:
        """The k likeliest classes of each sample, of which the answer is the first.

        Returns:
            Classes (N, k) int64, the lower number first on a tie, and their probabilities (N, k)
            float32, as in `probability`. With fewer than k classes, all of them.
        """
        classes = output.logits.sort(dim=1, descending=True, stable=True).indices[:, :k]
        return classes, self._probabilities(output, classes)

    def _probabilities(self, output: CascadeOutput, classes: Tensor) -> Tensor:
        """Probabilities (N, M) float32 of some classes (N, M) of each sample."""
        probabilities = torch.empty(classes.shape, device=classes.device)
        for k in range(len(self.stages)):
            rows = (output.chosen == k).nonzero().squeeze(1)
            if len(rows) == 0:
                continue
            logits = output.logits[rows]
            if k > 0 and self.policy.combine == "average":  # logarithms of mean probabilities
                of_all = logits.softmax(dim=1)
            else:
                of_all = self.policy.probabilities(k, logits)
            probabilities[rows] = of_all.gather(1, classes[rows])
        return probabilities

    def run_stage(self, k: int, inputs: Inputs) -> Tensor:
        """Logits (N, C) of one stage; subclasses may run stages in another way."""
        return forward_logits(self.stages[k], inputs, self.names[k])

    def _combined(self, k: int, step: Step, before: Step | None) -> Step:
        """Combine the answers of stage k with those of the stages before."""
        output = step.output
        if self.policy.combine == "average":
            total = self.policy.probabilities(k, output.logits)
            if before is None or before.memory is None:
                return step._replace(memory=total)
            total = before.memory + total
            answer = answers_of(total)
            output = output._replace(logits=_log_of(total / (k + 1), answer), prediction=answer)
            return step._replace(output=output, memory=total)
        if before is None or before.memory is None:
            return step._replace(memory=output.score)
        chosen = prefer_later(before.memory, output.score)
        output = output._replace(
            logits=torch.where(chosen[:, None], output.logits, before.output.logits),
            prediction=torch.where(chosen, output.prediction, before.output.prediction),
            chosen=torch.where(chosen, output.chosen, before.output.chosen),
        )
        best = torch.where(chosen, step.output.score, before.memory)
        return step._replace(output=output, memory=best)


_NO_ROWS = torch.empty(0, dtype=torch.int64)


def _deferred_rows(deferred: Tensor) -> Tensor | None:
    """Row numbers of the deferred samples; None if all are deferred."""
    if deferred.shape[0] == 1:  # a shortcut for the latency of single samples
        return None if deferred else _NO_ROWS
    rows = deferred.nonzero().squeeze(1)
    return None if len(rows) == len(deferred) else rows


def _log_of(mean: Tensor, answer: Tensor) -> Tensor:
    """Logarithm of probabilities (N, C), finite and with its only maximum at the answer.

    Probabilities may underflow, and their logarithms may round to the same number.
    """
    logs, answer = mean.clamp(min=torch.finfo(mean.dtype).tiny).log(), answer.unsqueeze(1)
    best = logs.gather(1, answer)
    below = best.detach().nextafter(torch.full_like(best, -math.inf))
    return logs.minimum(below).scatter(1, answer, best)
