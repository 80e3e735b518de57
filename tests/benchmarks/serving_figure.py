"""Draw what `tests.benchmarks.serving` has measured.

python -m tests.benchmarks.serving_figure docs/results/serving [--out docs/results/serving.png]
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from lit_cascade.report.pictures import figure_of, png_of
from lit_cascade.utilities.drawing import BLUE, GREY, VERMILION

PANELS = {
    "sleeping": "LitServe, as an accelerator",
    "ray": "Ray Serve, as a slower one",
    "cifar10": "LitServe, ResNets on a CPU",
    "timm": "LitServe, timm models on a CPU",
}
BARS = {
    "large": ("large model alone", GREY),
    "whole": ("cascade in one predict", VERMILION),
    "stages": ("a queue per stage", BLUE),
}
WIDTH = 0.27


def draw(folder: Path) -> bytes:
    """Answers per second as shares of the most that the stages allow, as a PNG."""
    figure = figure_of(8.6, 2.6)
    all_axes = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (name, title) in zip(all_axes, PANELS.items(), strict=True):
        rows = json.loads((folder / f"{name}.json").read_text())["rows"]
        closed = [row for row in rows if row["load"] == "closed"]
        best = {_tens(row): row["ideal_per_second"] for row in closed if row["mode"] == "stages"}
        for place, (mode, (label, colour)) in enumerate(BARS.items()):
            rates = {_tens(row): row["per_second"] for row in closed if row["mode"] == mode}
            if mode == "large" and rates:  # it defers nothing: the same for each share
                rates = dict.fromkeys(best, next(iter(rates.values())))
            at = [k + (place - 1) * WIDTH for k, share in enumerate(best) if share in rates]
            heights = [rates[share] / best[share] for share in best if share in rates]
            axes.bar(at, heights, WIDTH, color=colour, label=label)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_xticks(range(len(best)), [f"{share} %" for share in best])
        axes.set_xlim(-0.5, len(best) - 0.5)
        axes.set_xlabel("deferred")
        axes.set_title(title, fontsize=8)
    all_axes[0].set_ylabel("share of the ideal rate")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return png_of(figure)


def _tens(row: dict[str, Any]) -> int:
    return 10 * round(10 * row["deferred"])


def main() -> None:
    """Draw."""
    parser = ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("serving.png"))
    options = parser.parse_args()
    options.out.write_bytes(draw(options.folder))


if __name__ == "__main__":
    main()
