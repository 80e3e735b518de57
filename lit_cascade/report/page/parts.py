"""A part of the page: the results of one command, and the sentences that several parts need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from lit_cascade.core.guarantee import Promise
from lit_cascade.report.page.folder import Results
from lit_cascade.report.text import data_title
from lit_cascade.utilities.units import (
    cost_figure,
    cost_heading,
    counted,
    fewer,
    percent,
    total_figure,
    unit_label,
)


@dataclass(frozen=True)
class PartTable:
    """A table of a part."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Part:
    """The results of one command as the page shows them.

    Attributes:
        command: name of the command.
        title: heading.
        sentences: what is proposed, what it saves, and how sure that is, by their labels.
        chart: a Vega-Lite specification.
        legend: looks of the marks in the chart, and what they are.
        slider: texts of the numbers beside a slider over the chart, at each of its steps.
        clicks: what a click on each point of the chart shows.
        tables: below the chart.
        notes: of the command.
        sources: provenance, as pairs.
        files: YAML files to read, by name.
    """

    command: str
    title: str
    sentences: Mapping[str, Markup]
    chart: Mapping[str, Any] | None = None
    legend: Sequence[tuple[str, str]] = ()
    slider: Mapping[str, Any] | None = None
    clicks: Sequence[Mapping[str, Any]] = ()
    tables: Sequence[PartTable] = ()
    notes: Sequence[str] = ()
    sources: Sequence[tuple[str, str]] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def say(text: str, /, *bold: str, **values: Any) -> Markup:
    """A sentence in HTML with values in it, all of which are escaped.

    Args:
        text: HTML, with `{}` for each bold value and `{name}` for others. No name or text of users
            may be part of it.
        bold: values.
        values: others by name; `Markup` is HTML already.

    Examples:
        >>> say("{} answers {share} of inputs.", "<i>", share="9 %")
        Markup('<b>&lt;i&gt;</b> answers 9 % of inputs.')
    """
    strong = (Markup("<b>{}</b>").format(one) for one in bold)
    return Markup(text).format(*strong, **values)  # noqa: S704 - it is what Markup is for


def labelled(*sentences: Markup, first: str = "Proposed") -> dict[str, Markup]:
    """The three sentences of a part that proposes something."""
    return dict(zip((first, "What it saves", "How sure that is"), sentences, strict=True))


def numbers(values: Any) -> list[float]:
    """Numbers of a JSON file, in which infinities are texts."""
    return [float(value) for value in values]


def score_name(score: str) -> str:
    """A score as the page calls it."""
    return "confidence" if score == "max_softmax" else f"score ({score})"


def answering(
    names: Sequence[str], score: str, thresholds: Sequence[str], answered: Sequence[float]
) -> Markup:
    """Which model answers when, in a sentence."""
    what = score_name(score)
    if len(names) == 2:
        return say(
            "{} answers when its {what} is at least {}, which is {} of inputs; {} answers the "
            "others.", names[0], thresholds[0], percent(answered[0]), names[1], what=what,
        )  # fmt: skip
    limits = ", ".join(f"{name} {limit}" for name, limit in zip(names, thresholds, strict=False))
    return say(
        "Each model answers when its {what} is at least its threshold ({}); {} of inputs reach {}.",
        limits, percent(answered[-1]), names[-1], what=what,
    )  # fmt: skip


def saving(ratio: float, cost: float, unit: str, last: str) -> Markup:
    """What a cascade saves, in a sentence."""
    if not 0 < ratio < 1:
        return say("{} It costs as much as {last} alone or more.", "Nothing.", last=last)
    heading = cost_heading(unit)
    return say(
        "{} than {} alone: {now} instead of {before} {what}.", fewer(ratio, unit), last,
        now=cost_figure(cost, unit), before=cost_figure(cost / ratio, unit),
        what=heading if "per million" in heading else f"{heading} per input",
    )  # fmt: skip


def month(summary: Mapping[str, Any], where: str = "") -> Markup:
    """The saving of a month in a sentence, if it is known, and on which samples."""
    known = summary.get("per_month")
    if known is None:
        return escape("")
    unit = known["unit"]
    low, high = (total_figure(end, unit) for end in sorted(known["interval"]))
    return say(
        " At {calls:,.0f} calls a month that is {}{where} (95 % interval {low} to {high}).",
        f"{total_figure(known['saved'], unit)} {unit_label(unit)}",
        calls=known["calls"], where=where, low=low, high=high,
    )  # fmt: skip


def promised(promise: Promise, last: str, unit: str) -> Markup:
    """What a promise is, as a clause."""
    limit = percent(promise.limit, 2)
    points = f"{100 * promise.limit:.3g} point{'' if promise.limit == 0.01 else 's'}"
    cost = f"{cost_figure(promise.limit, unit)} {cost_heading(unit)}"
    return {
        "accuracy_drop": say("the accuracy is at most {} below that of {}", points, last),
        "accuracy": say("the accuracy is at least {}", limit),
        "disagreement": say("at most {} of the answers differ from those of {}", limit, last),
        "deferral_rate": say("at most {} of inputs are deferred", limit),
        "cost": say("the cost is on average at most {}", cost),
        "cost_ratio": say("the cost is at most {} of that of {} alone", limit, last),
    }[promise.target]


def observed(target: str, value: float | None, unit: str) -> str:
    """The value of a target on some samples, in brackets; empty if it is unknown."""
    if value is None:
        return ""
    if target == "accuracy_drop":
        return f" (observed {abs(100 * value):.2f} points {'below' if value >= 0 else 'above'})"
    return f" (observed {cost_figure(value, unit) if target == 'cost' else percent(value, 2)})"


def sources(summary: Mapping[str, Any], files: Results) -> list[tuple[str, str]]:
    """Where the figures come from."""
    told, rows = summary.get("provenance") or {}, [("folder", files.folder.resolve().name)]
    if data := told.get("data"):
        rows.append(("data", f"{data_title(data)}, {counted(summary['n'], 'sample')}"))
    if fingerprint := told.get("fingerprint"):
        rows.append(("fingerprint of the samples", fingerprint))
    for name, model in (told.get("models") or {}).items():
        config = model.get("config") or {}
        info = (told.get("recorded") or {}).get(name, {})
        parts = [
            config.get("checkpoint") or config.get("timm") or model.get("class") or "",
            model.get("weights") and f"weights {model['weights']}",
            info.get("date") and f"recorded {info['date']}",
            *(f"{library} {version}" for library, version in info.get("versions", {}).items()),
        ]
        rows.append((f"model {name}", ", ".join(str(part) for part in parts if part)))
    rows += [(k, v) for k, v in told.get("versions", {}).items()]
    return rows
