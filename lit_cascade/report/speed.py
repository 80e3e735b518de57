"""The result of `benchmark`: throughput and latency of the cascade and its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from lit_cascade.report.pictures import figure_of, png_of
from lit_cascade.report.text import Column, Table
from lit_cascade.utilities.drawing import BLUE, GREY, VERMILION, literal, quiet
from lit_cascade.utilities.units import counted, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lit_cascade.lit import Benchmark
    from lit_cascade.live import Latency, Speed


def _time(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _fold(ratio: float) -> str:
    return f"{ratio:.2f}x"


def _range(seconds: Sequence[float]) -> str:
    return f"{_time(min(seconds))} to {_time(max(seconds))}"


def pace_table(title: str, names: Sequence[str], speeds: Sequence[Speed]) -> Any:
    """Time per sample of each stage alone and of the cascade at each policy, as a table."""
    table = Table(
        title,
        "what", "deferred", "samples/s", Column("time per sample", detail=1),
        Column("of the repeats", detail=2), "speed-up", "ideal", "of the ideal",
        Column("range", detail=2),
    )  # fmt: skip
    for name, alone in zip(names, speeds[0].stages, strict=True):
        table.add_row(
            f"{name} alone", "", f"{1 / median(alone):,.0f}", _time(median(alone)), _range(alone),
            _fold(median(speeds[0].stages[-1]) / median(alone)), "", "", "",
        )  # fmt: skip
    for speed in speeds:
        ratio, least, most = speed.of_ideal
        table.add_row(
            "cascade at " + ", ".join(f"{value:.4g}" for value in speed.thresholds),
            percent(speed.deferral_rate),
            f"{1 / median(speed.cascade):,.0f}",
            _time(median(speed.cascade)),
            _range(speed.cascade),
            _fold(speed.speedup[0]),
            _fold(speed.ideal_speedup),
            f"{ratio:.3f}",
            f"{least:.3f} to {most:.3f}",
        )
    return table


def latency_table(
    names: Sequence[str],
    alone: Sequence[Latency],
    thresholds: Sequence[tuple[float, ...]],
    together: Sequence[Latency],
) -> Any:
    """Latency of single samples, as a table."""
    table = Table("One sample at a time, the models alone", "what", "p50", "p99")
    for name, result in zip(names, alone, strict=True):
        table.add_row(f"{name} alone", _time(result.p50), _time(result.p99))
    for values, result in zip(thresholds, together, strict=True):
        where = ", ".join(f"{value:.4g}" for value in values)
        table.add_row(f"cascade at {where}", _time(result.p50), _time(result.p99))
    return table


def speed_rows(names: Sequence[str], speeds: Sequence[Speed]) -> list[dict[str, Any]]:
    """The measurements at each policy, as plain JSON."""
    return [
        {
            "thresholds": list(speed.thresholds),
            "deferral_rate": speed.deferral_rate,
            "reached": dict(zip(names, speed.reached, strict=True)),
            "seconds_per_sample": median(speed.cascade),
            "ideal_seconds_per_sample": median(speed.ideal),
            "repeats": list(speed.cascade),
            "speedup": speed.speedup[0],
            "ideal_speedup": speed.ideal_speedup,
            "of_ideal": dict(zip(("median", "least", "greatest"), speed.of_ideal, strict=True)),
        }
        for speed in speeds
    ]


def benchmark_notes(result: Benchmark, split: str) -> list[str]:
    """The notes of a benchmark."""
    told = (
        f"{counted(result.n, 'sample')} of {result.data['name']}, split {split!r}; medians of "
        f"{counted(len(result.model_only[0].cascade), 'repeat')}, ratios within a repeat. The "
        "ideal is the time that the stages alone take for the samples that reach them."
    )
    return [told]


def speed_summary(result: Benchmark, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark as plain JSON.

    `costs` holds, per stage, seconds per sample in full batches of the models alone.
    """
    alone = result.model_only[0].stages
    summary: dict[str, Any] = {
        "device": result.device,
        "n": result.n,
        "batch_size": result.batch_size,
        **settings,
        "costs": {
            name: {"latency_s": median(one)} for name, one in zip(result.names, alone, strict=True)
        },
        "model_only": _kind(result.names, result.model_only),
    }
    if result.end_to_end:
        summary["end_to_end"] = _kind(result.names, result.end_to_end)
    summary["one_sample"] = {
        "alone": {
            name: one._asdict() for name, one in zip(result.names, result.latency, strict=True)
        },
        "cascade": [
            {"thresholds": list(speed.thresholds), **one._asdict()}
            for speed, one in zip(result.model_only, result.cascade_latency, strict=True)
        ],
    }
    return summary | {"data": result.data}


def _kind(names: Sequence[str], speeds: Sequence[Speed]) -> dict[str, Any]:
    stages = speeds[0].stages
    return {
        "stages": {name: list(one) for name, one in zip(names, stages, strict=True)},
        "cascade": speed_rows(names, speeds),
    }


def draw_speed(title: str, kinds: Sequence[tuple[str, Sequence[Speed]]]) -> bytes:
    """Speed-up over the last stage alone against the deferral rate, as a PNG.

    `kinds` holds the name and the measurements of each panel.
    """
    figure = figure_of(5.4 * len(kinds), 4.0)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, (kind, speeds) in zip(panels, kinds, strict=True):
        _panel(axes, kind, sorted(speeds, key=lambda speed: speed.deferral_rate))
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(literal(title), fontsize=10)
    return png_of(figure)


def _panel(axes: Axes, kind: str, speeds: Sequence[Speed]) -> None:
    rates = [100 * speed.deferral_rate for speed in speeds]
    ideal = [speed.ideal_speedup for speed in speeds]
    real = [speed.speedup for speed in speeds]
    axes.plot(rates, ideal, "--o", color=GREY, markersize=4, linewidth=1.2, label="ideal")
    spread = [[mid - low for mid, low, _ in real], [high - mid for mid, _, high in real]]
    axes.errorbar(
        rates, [mid for mid, _, _ in real], yerr=spread, fmt="-o", color=BLUE, markersize=4,
        linewidth=1.6, capsize=2, label="cascade, median and range of the repeats",
    )  # fmt: skip
    axes.axhline(1.0, color=VERMILION, linewidth=1.0, label="last stage alone")
    axes.set_xlabel("deferred by the first stage (%)")
    axes.set_ylabel("times as fast as the last stage alone")
    axes.set_title(kind, fontsize=9)
    quiet(axes)
    axes.set_ylim(bottom=0)
