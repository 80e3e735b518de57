"""Options that several commands share; `--help` prints their docstrings.

No import of torch, not even for type checkers (jsonargparse runs such imports), so that help stays
fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Literal, Self, TypeVar

from lit_cascade.errors import UsageError, check_name

ScoreName = Literal[
    "max_softmax", "margin", "negative_entropy", "agreement", "learned", "max_logit_pnorm"
]
Norm = float | Literal["max_softmax"]
"""The p of a p-norm, or the score that stands for `max_logit_pnorm` where no p is better."""
Combination = Literal["later", "average", "most_confident"]
_Value = TypeVar("_Value", bound=float | str)


class Share(float):
    """A fraction of a whole, 0 to 1, from a number or a percentage.

    The whole number 1 is refused, as it may mean all or one percent.

    Args:
        value: such as 0.005 or "0.5%"; all is 1.0 or "100%".
        argument: for the message; without it the message is without a subject.

    Raises:
        UsageError: something else.

    Examples:
        >>> Share("0.5%") == Share("0.005") == Share(0.005) == 0.005
        True
        >>> Share(1, "holdout")
        Traceback (most recent call last):
            ...
        lit_cascade.errors.UsageError: holdout: 1 is not a share: for 1 percent write 0.01 or 1%, \
for all of it 1.0 or 100%.
    """

    def __new__(cls, value: float | str, argument: str = "") -> Self:
        """Parse and check."""
        text = str(value).strip()
        percent = text.endswith("%")
        try:
            number = Decimal("nan" if isinstance(value, bool) else text.removesuffix("%"))
        except ArithmeticError:
            number = Decimal("nan")
        share = float(number / 100 if percent else number)
        bare = number == 1 and text.lstrip("+").isdecimal()
        if 0 <= share <= 1 and not bare:
            return super().__new__(cls, share)
        if not percent and 1 <= float(number) <= 100:
            said = f"{text} is not a share: for {text} percent write {number / 100} or {text}%"
            said += ", for all of it 1.0 or 100%." if bare else "."
        else:
            said = f"expected a share from 0 to 1, such as 0.05 or 5%, got {value!r}."
        raise UsageError(f"{argument}: {said}" if argument else said)


def norm_of(value: Any) -> Norm:
    """The p of a norm, at least 1 and finite, or `max_softmax`.

    Raises:
        UsageError: something else.

    Examples:
        >>> norm_of(5), norm_of("max_softmax")
        (5.0, 'max_softmax')
    """
    if value == "max_softmax":
        return "max_softmax"
    try:
        p = float(value)
    except (TypeError, ValueError):
        p = math.nan
    if not 1 <= p < math.inf:
        raise UsageError(
            f"norms: expected a finite p of at least 1, such as 5, or max_softmax, got {value!r}."
        )
    return p


def _per_stage(
    values: Mapping[str, _Value] | Sequence[_Value] | None,
    names: Sequence[str],
    argument: str,
    default: _Value | None,
    parse: Callable[[Any], _Value],
) -> tuple[_Value, ...] | None:
    """One number per stage, from numbers by stage name or in stage order.

    Args:
        values: numbers of the user.
        names: of the stages.
        argument: name of the argument for messages.
        default: number of stages that a mapping omits; None if it must name each.
        parse: makes a number of what the user gave.

    Returns:
        As many numbers as `names`; None without values.

    Raises:
        UsageError: an unknown stage, a missing one, or a wrong length.

    Examples:
        >>> _per_stage({"small": 1.5}, ["small", "large"], "temperatures", 1.0, float)
        (1.5, 1.0)
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        for name in values:
            check_name(name, names, argument)
        missing = [name for name in names if name not in values]
        if missing and default is None:
            raise UsageError(
                f"{argument}: expected a number for each of {', '.join(names)}, "
                f"got none for {', '.join(missing)}."
            )
        return tuple(parse(values.get(name, default)) for name in names)
    if len(values) != len(names):
        raise UsageError(
            f"{argument}: expected one number for each of {', '.join(names)}, got {len(values)}."
        )
    return tuple(parse(value) for value in values)


@dataclass
class PolicyOptions:
    """Rule by which stages answer or defer.

    Args:
        score: confidence score: max_softmax (0 to 1), margin between the two best classes (0 to 1),
            negative_entropy (at most 0, in nats), agreement (0 to 2: max_softmax or the recorded
            confidence, plus 1 where an earlier stage gave the same answer), learned (-1 to 1:
            minus the estimated gain of going on), which needs heads, or max_logit_pnorm (0 to 1),
            which needs norms.
        thresholds: a stage answers if its score is at least its threshold; by stage name or in
            stage order, for every stage but the last; -inf never defers, inf always does.
        temperatures: divisors of the logits before these are scored, by stage name (others are 1)
            or in stage order.
        combine: answer after a deferral: the later stage's, by the average of the probabilities of
            the stages that ran, or of the most confident of them.
        floors: a stage also answers if its score is below its floor, as later stages rarely help
            there; by stage name (others have none) or in stage order.
        heads: parameters of the learned score by stage name; written by calibrate --learn_score.
        norms: p of the score max_logit_pnorm, at least 1, or max_softmax where no norm is better;
            by stage name or in stage order, for every stage but the last; written by calibrate
            --choose_norms.
        evidence: samples that the numbers were fitted on; written by calibrate, select and search.
    """

    score: ScoreName = "max_softmax"
    thresholds: dict[str, float] | list[float] | None = None
    temperatures: dict[str, float] | list[float] | None = None
    combine: Combination = "later"
    floors: dict[str, float] | list[float] | None = None
    heads: dict[str, dict[str, Any]] | None = None
    norms: dict[str, Norm] | list[Norm] | None = None
    evidence: dict[str, Any] | None = None

    @classmethod
    def from_mapping(cls, values: Any, argument: str) -> PolicyOptions:
        """Options from the mapping of a file.

        Args:
            values: under `policy` in the file.
            argument: name of the argument or file, for messages.

        Raises:
            UsageError: no mapping, or an unknown key.
        """
        known = [one.name for one in fields(cls)]
        if not isinstance(values, Mapping) or not values:
            raise UsageError(
                f"{argument} holds no policy; `lit-cascade select` and `Policy.save` write one."
            )
        for name in values:
            check_name(str(name), known, argument)
        return cls(**values)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of all stages, if the options name them; the last has no threshold."""
        promise = (self.evidence or {}).get("promise")
        if isinstance(promise, Mapping) and promise.get("stages"):
            return tuple(map(str, promise["stages"]))
        deferring, all_stages = self.thresholds, self.temperatures
        if isinstance(all_stages, Mapping) and len(all_stages) > 1:
            names = tuple(all_stages)
            if deferring is None or (
                isinstance(deferring, Mapping) and names[:-1] == tuple(deferring)
            ):
                return names
        return ()

    def temperatures_of(self, names: Sequence[str]) -> tuple[float, ...]:
        """One temperature per stage.

        Raises:
            UsageError: an unknown stage or a wrong length.
        """
        temperatures = _per_stage(self.temperatures, names, "policy.temperatures", 1.0, float)
        for temperature in temperatures or ():
            if not 0 < temperature < math.inf:
                raise UsageError(
                    f"policy.temperatures: expected finite numbers above 0, got {temperature}."
                )
        return temperatures or (1.0,) * len(names)

    def thresholds_of(self, names: Sequence[str]) -> tuple[float, ...] | None:
        """One threshold per stage but the last; None if undecided.

        Raises:
            UsageError: an unknown stage, a missing one, or a wrong length.
        """
        return _per_stage(self.thresholds, names[:-1], "policy.thresholds", None, float)

    def floors_of(self, names: Sequence[str]) -> tuple[float, ...]:
        """One floor per stage but the last; -inf if none is given.

        Raises:
            UsageError: an unknown stage or a wrong length.
        """
        floors = _per_stage(self.floors, names[:-1], "policy.floors", -math.inf, float)
        return floors or (-math.inf,) * (len(names) - 1)

    def heads_of(self, names: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
        """Parameters of a deferral head per stage but the last; empty unless the score is learned.

        Raises:
            UsageError: an unknown stage, or a stage without a head.
        """
        if self.score != "learned":
            return ()
        heads = self.heads or {}
        for name in heads:
            check_name(name, names[:-1], "policy.heads")
        missing = [name for name in names[:-1] if not heads.get(name)]
        if missing:
            raise UsageError(
                f"policy.heads: the score learned needs a head for {', '.join(missing)}; "
                "`lit-cascade calibrate --learn_score` fits them and writes them."
            )
        return tuple(heads[name] for name in names[:-1])

    def norms_of(self, names: Sequence[str]) -> tuple[Norm, ...]:
        """One norm per stage but the last; empty unless the score is `max_logit_pnorm`.

        Raises:
            UsageError: an unknown stage, a stage without a norm, a wrong length, or no norm.
        """
        if self.score != "max_logit_pnorm":
            return ()
        norms = _per_stage(self.norms, names[:-1], "policy.norms", None, norm_of)
        if norms is None:
            raise UsageError(
                f"policy.norms: the score max_logit_pnorm needs a p for {', '.join(names[:-1])}; "
                "`lit-cascade calibrate --choose_norms` chooses them and writes them."
            )
        return norms


@dataclass
class ServingOptions:
    """How a cascade is served.

    Args:
        host: address to listen on; 127.0.0.1 is this machine alone, 0.0.0.0 all of its networks.
        port: port to listen on.
        batch_size: samples of a full batch, of all stages or by stage name.
        wait: seconds that a batch waits to be filled, of all stages or by stage name; by default of
            each stage the time of one of its full batches, measured at the start.
        workers: processes per device, of all stages or by stage name.
        devices: devices of all stages or by stage name, such as cuda:0, or cuda:0,cuda:1; by
            default a GPU for each stage in turn, or cpu without any.
        threads: CPU threads of a worker; by default the cores are shared out among the workers.
        queue_size: samples that may wait before further requests get 503 and Retry-After.
        max_body: most bytes of a request's body.
        max_pixels: most pixels of an image.
        max_inputs: most inputs of a request for several answers.
        timeout: seconds after which a request that has no answer gets 504.
        audit: share of the answers that the last stage checks, without delaying them.
        http_workers: processes that take requests; one answers about a thousand per second.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    batch_size: int | dict[str, int] = 32
    wait: float | dict[str, float] | None = None
    workers: int | dict[str, int] = 1
    devices: str | dict[str, str] | None = None
    threads: int | None = None
    queue_size: int = 1024
    max_body: int = 10_000_000
    max_pixels: int = 50_000_000
    max_inputs: int = 256
    timeout: float = 60.0
    audit: Share = Share(0.0)
    http_workers: int = 1

    def __post_init__(self) -> None:
        """Check every number.

        Raises:
            UsageError: one that is out of range.
        """
        least = {
            "queue_size": 1,
            "max_body": 1,
            "max_pixels": 1,
            "max_inputs": 1,
            "http_workers": 1,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UsageError(f"{name}: expected at least {low}, got {getattr(self, name)}.")
        if not 0 <= self.port < 65536:
            raise UsageError(f"port: expected a number from 1 to 65535, got {self.port}.")
        if not 0 < self.timeout < math.inf:
            raise UsageError(f"timeout: expected seconds above 0, got {self.timeout}.")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads: expected at least 1, got {self.threads}.")
        self.audit = Share(self.audit, "audit")

    def by_stage(self, name: str, names: Sequence[str]) -> list[Any]:
        """Values of an option that may differ from stage to stage, one per stage.

        Args:
            name: `batch_size`, `wait`, `workers` or `devices`.
            names: of the stages.

        Raises:
            UsageError: an unknown stage, or a number out of range.

        Examples:
            >>> ServingOptions(workers={"large": 2}).by_stage("workers", ["small", "large"])
            [1, 2]
        """
        return _by_stage(self, name, names, least=0 if name == "wait" else 1)


@dataclass
class RayOptions:
    """A Ray cluster, and the actors that run the stages of a cascade on it.

    Args:
        address: of the cluster; by default that of RAY_ADDRESS or of one that runs on this machine,
            and without any one of this machine alone is started.
        actors: number of actors, of all stages or by stage name; by default as many as the cluster
            has room for, in the ratio of the time that each stage needs.
        cpus: CPUs of an actor, of all stages or by stage name.
        gpus: GPUs of an actor, of all stages or by stage name, such as 0.5; by default an even part
            of one, or 1 where the cluster has one for each stage.
        seconds: seconds per sample, by stage name; by default measured on the first window.
    """

    address: str | None = None
    actors: int | dict[str, int] | None = None
    cpus: float | dict[str, float] = 1.0
    gpus: float | dict[str, float] | None = None
    seconds: dict[str, float] | None = None

    def by_stage(self, name: str, names: Sequence[str]) -> list[Any]:
        """Values of an option by stage; see `ServingOptions.by_stage`."""
        return _by_stage(self, name, names, least=1 if name == "actors" else 0, argument="ray.")


def _by_stage(
    options: Any, name: str, names: Sequence[str], least: int, argument: str = ""
) -> list[Any]:
    """Values of an option that is given for all stages, or by name: then others have the default.

    Raises:
        UsageError: an unknown stage, or a number out of range.
    """
    given, default = getattr(options, name), getattr(type(options), name)
    if isinstance(given, Mapping):
        for stage in given:
            check_name(stage, names, argument + name)
        values = [given.get(stage, default) for stage in names]
    else:
        values = [given] * len(names)
    for value in values:
        if isinstance(value, (int, float)) and value < least:
            raise UsageError(f"{argument}{name}: expected at least {least}, got {value}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{argument}{name}: expected a finite number, got {value}.")
    return values
