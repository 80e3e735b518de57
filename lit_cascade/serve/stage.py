"""One stage of a served cascade: a batch of samples in, an outcome of each out; engines share this.

The stage runs by `Cascade.step`, which is what every other command runs, so that served answers are
those of `Cascade`.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from lit_cascade.core import Judgement, Policy, answers_of
from lit_cascade.errors import CascadeError
from lit_cascade.live import Cascade, CascadeOutput, FlopMeter, Step, WithRemarks
from lit_cascade.serve.inputs import Inputs, RequestError

_REPEATS = 3


class Sample(NamedTuple):
    """A sample that a stage runs on.

    Attributes:
        input: as it travels: see `Inputs`.
        top: number of likeliest classes to return.
        before: what the earlier stages said: `Outcome.carried` of the last of them.
        audited: answer that the last stage is to be compared with; None where it answers.
    """

    input: Any
    top: int = 0
    before: Any = None
    audited: int | None = None


@dataclass
class Outcome:
    """What a stage made of a sample.

    Attributes:
        body: the answer, as it is returned as JSON; None where there is none.
        status: HTTP status of the answer or the failure.
        deferred: whether the next stage is to answer.
        carried: what later stages need to know of this one.
        score: of the stage; None where it failed.
        audit: whether the last stage is to audit the answer.
        agreed: whether an audited answer is the last stage's; None without an audit.
    """

    body: dict[str, Any] | None = None
    status: int = 200
    deferred: bool = False
    carried: Any = None
    score: float | None = None
    audit: bool = False
    agreed: bool | None = None


class _OneStage(Cascade):
    """A cascade of which one stage is in memory. It remembers the logits of its last batch."""

    logits: Tensor

    def run_stage(self, k: int, inputs: Any) -> Tensor:
        self.logits = super().run_stage(k, inputs)
        return self.logits


class StageRunner:
    """One stage of a cascade, on the device that it is moved to.

    Args:
        number: of the stage, from 0.
        names: of all stages, cheapest first.
        network: the stage.
        policy: with thresholds.
        kind: what requests hold.
        classes: names of the classes in logit order; None for their numbers.
        readable: readable names of classes, where they have other ones.
        audit: share of the answers that the last stage audits.
        costs: cost of a sample at this stage, by unit, beside those that are measured.

    Attributes:
        device: of the network.
    """

    def __init__(
        self,
        number: int,
        names: Sequence[str],
        network: nn.Module,
        policy: Policy,
        kind: Inputs,
        classes: Sequence[str] | None = None,
        readable: Mapping[str, str] | None = None,
        audit: float = 0.0,
        costs: Mapping[str, float] | None = None,
    ) -> None:
        self._costs = dict(costs or {})
        self.number, self.names, self.policy, self.kind = number, tuple(names), policy, kind
        stages = {name: nn.Identity() for name in names} | {names[number]: network}
        self._cascade = _OneStage(stages, policy).eval()
        self._preprocess: Callable[[Any], Any] | None = getattr(network, "preprocessing", None)
        self._collate = getattr(self._preprocess, "collate", None)
        self._classes, self._readable = classes, readable or {}
        last = number == len(names) - 1
        self._audit, self._random = 0.0 if last else audit, random.Random(number)  # noqa: S311 - draws audits
        self._carries = policy.combine != "later" or policy.reads_earlier
        self.device = torch.device("cpu")

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.names[self.number]

    def to(self, device: str | torch.device) -> StageRunner:
        """Move the network to a device."""
        self.device = torch.device(device)
        self._cascade.to(self.device)
        return self

    def measure(self, size: int) -> float:
        """Median seconds of one full batch, with preprocessing.

        Raises:
            CascadeError: the stage does not take what requests hold.
        """
        seconds = []
        for _ in range(1 + _REPEATS):
            start = time.perf_counter()
            self.check(size)
            seconds.append(time.perf_counter() - start)
        return sorted(seconds[1:])[_REPEATS // 2]

    def costs(self, seconds: float) -> dict[str, float]:
        """Cost of a sample, by unit: as given, `latency_s`, and `flops` where they can be counted.

        Args:
            seconds: of a sample in a full batch.
        """
        flops = self._flops()
        counted = {} if flops is None else {"flops": flops}
        return {"latency_s": seconds} | counted | self._costs

    def _flops(self) -> float | None:
        """FLOPs of the example; None where they cannot be counted."""
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("error")
                batch = self._batch([self._view(self.kind.example())])
                return float(FlopMeter(self._cascade.stages[self.number], self.name)(batch)[0])
        except Exception:  # noqa: BLE001 - a network of the user's, or operators without a count
            return None

    @torch.inference_mode()
    def check(self, size: int = 1) -> None:
        """Run the stage on copies of the example.

        Raises:
            CascadeError: it does not take it.
        """
        try:
            views = [self._view(self.kind.example()) for _ in range(size)]
            self._cascade.run_stage(self.number, self._batch(views)).cpu()
        except (RequestError, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise CascadeError(
                f"stage {self.name!r} does not take {self.kind.expected}: {error}"
            ) from error

    @torch.inference_mode()
    def __call__(self, samples: Sequence[Sample]) -> list[Outcome]:
        """Run the stage on samples; one that it cannot take fails alone."""
        outcomes = [Outcome() for _ in samples]
        groups: dict[Any, list[tuple[int, Any]]] = {}
        for row, sample in enumerate(samples):
            try:
                view = self._view(sample.input)
                key = () if self._collate else _shape(view)
                if sample.before is not None:
                    key = (key, len(sample.before))
                groups.setdefault(key, []).append((row, view))
            except RequestError as error:
                outcomes[row] = _failed(error.status, str(error))
            except Exception as error:  # noqa: BLE001 - of a preprocessing of the user's
                outcomes[row] = self._refused(error)
        for group in groups.values():
            self._run(group, samples, outcomes)
        return outcomes

    def _view(self, traveller: Any) -> Any:
        """A sample as the network takes it."""
        raw = self.kind.raw(traveller)
        if self._preprocess is None:
            return raw
        view = self._preprocess(raw)
        return view.tensors if isinstance(view, WithRemarks) else view

    def _batch(self, views: Sequence[Any]) -> Any:
        batch = (self._collate or default_collate)(list(views))
        return _moved(batch, self.device)

    def _run(
        self,
        group: Sequence[tuple[int, Any]],
        samples: Sequence[Sample],
        outcomes: list[Outcome],
    ) -> None:
        rows = [row for row, _ in group]
        try:
            befores = [_thawed(samples[row].before, self.device) for row in rows]
            known = [one for one in befores if one is not None]
            inputs = self._batch([view for _, view in group])
            step = self._cascade.step(self.number, inputs, Step.join(known) if known else None)
        except Exception as error:  # noqa: BLE001 - of a network of the user's
            if len(group) == 1:
                outcomes[rows[0]] = self._refused(error)
                return
            for one in group:
                self._run([one], samples, outcomes)
            return
        for row, outcome in zip(
            rows, self._outcomes(step, [samples[r] for r in rows]), strict=True
        ):
            outcomes[row] = outcome

    def _refused(self, error: Exception) -> Outcome:
        """The failure of a sample that the stage takes not even alone.

        Raises:
            CascadeError: the stage does not take the example either: it is broken.
        """
        self.check()
        text = str(error).strip().split("\n", maxsplit=1)[0][:200].rstrip(".")
        return _failed(
            422,
            f"stage {self.name!r} cannot take this input: {text or type(error).__name__}. "
            f"Expected {self.kind.expected}.",
        )

    def _outcomes(self, step: Step, samples: Sequence[Sample]) -> list[Outcome]:
        output = step.output
        alone = answers_of(self._cascade.logits).tolist()
        finite = output.logits.isfinite().all(dim=1).tolist()
        scores = output.score.tolist()
        deferred = [False] * len(samples) if step.deferred is None else step.deferred.tolist()
        answers, chances = output.prediction.tolist(), self._cascade.probability(output).tolist()
        top = max((sample.top for sample in samples), default=0)
        likeliest = None
        if top:
            best, shares = self._cascade.likeliest(output, top)
            likeliest = best.tolist(), shares.tolist()
        outcomes = []
        host = None
        for row, sample in enumerate(samples):
            one = Outcome(score=scores[row], deferred=deferred[row])
            if sample.audited is not None:
                one.agreed = alone[row] == sample.audited
                outcomes.append(one)
                continue
            one.audit = not one.deferred and self._random.random() < self._audit
            if self._carries and (one.deferred or one.audit):
                host = host or _frozen(step)
                one.carried = _taken(host, row)
            if not one.deferred and not finite[row]:
                one = _failed(500, f"stage {self.name!r} gave NaN or infinite logits.")
            elif not one.deferred:
                one.body = self._named(answers[row], chances[row]) | {
                    "stage": self.name, "score": scores[row],
                }  # fmt: skip
                if sample.top and likeliest is not None:
                    pairs = zip(likeliest[0][row], likeliest[1][row], strict=True)
                    one.body["top_k"] = [self._named(*pair) for pair in pairs][: sample.top]
            outcomes.append(one)
        return outcomes

    def _named(self, number: int, probability: float) -> dict[str, Any]:
        name = str(number) if self._classes is None else self._classes[number]
        shown = {"prediction": number, "name": self._readable.get(name, name)}
        if name in self._readable:
            shown["class"] = name
        return shown | {"probability": probability}


def costs_of(costs: Mapping[str, Mapping[str, float]], name: str) -> dict[str, float]:
    """Costs of a stage by unit, of costs by unit and stage."""
    return {unit: by_stage[name] for unit, by_stage in costs.items()}


def _shape(view: Any) -> Any:
    """What views must share to be in one batch without a collate function."""
    if isinstance(view, Tensor):
        return tuple(view.shape)
    views = view.values() if isinstance(view, Mapping) else view
    return tuple(map(_shape, views)) if isinstance(view, (Mapping, tuple, list)) else type(view)


def _failed(status: int, message: str) -> Outcome:
    return Outcome({"error": message}, status)


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: _moved(value, device) for name, value in batch.items()}
    return tuple(_moved(value, device) for value in batch)


# Between processes a step travels as arrays: tensors would go through shared memory, one by one.
# [0] are the columns of the output, [1] the memory, [2:] the judgements of the stages so far.
def _frozen(step: Step) -> list[Any]:
    parts = [tuple(step.output), step.memory, *map(tuple, step.judged)]
    return [
        tuple(one.cpu().numpy() for one in part)
        if isinstance(part, tuple)
        else None if part is None else part.cpu().numpy()
        for part in parts
    ]  # fmt: skip


def _taken(frozen: Sequence[Any], row: int) -> list[Any]:
    return [
        tuple(np.array(one[row : row + 1]) for one in part)
        if isinstance(part, tuple)
        else None if part is None else np.array(part[row : row + 1])
        for part in frozen
    ]  # fmt: skip


def _thawed(frozen: Sequence[Any] | None, device: torch.device) -> Step | None:
    if frozen is None:
        return None

    def tensor(array: Any) -> Tensor:
        return torch.from_numpy(array).to(device)

    output, memory, *judged = frozen
    return Step(
        CascadeOutput(*map(tensor, output)),
        memory=None if memory is None else tensor(memory),
        judged=tuple(Judgement(*map(tensor, one)) for one in judged),
    )
