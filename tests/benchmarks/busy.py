"""How long commands take beside processes that use the same cores, by how torch's threads wait.

python -m tests.benchmarks.busy [--spinners 0 2 8] [--commands validate ...] [--repeats 3]
    [--environments "OMP_NUM_THREADS=1" "GOMP_SPINCOUNT=300000" ""]
    [--samples 50000] [--classes 1000] [--images 48] [--out FILE.json]

Each environment is a list of variables beside those of this process, of which the variables of
OpenMP are left out; the last one, without any, is what a user gets. The environments take turns,
each run in a process of its own. Printed are medians of the time on the clock, and the medians of
its ratios to the first environment, one thread, in the same turn.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lit_cascade.report.text import Table, show
from tests.benchmarks.commands import run, write_records
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine
from tests.images import image_folder

BUNDLED = Path(__file__).parents[2] / "checkpoints" / "cifar10" / "test"
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
ENVIRONMENTS = ("OMP_NUM_THREADS=1", "GOMP_SPINCOUNT=300000", "")
"""The second makes threads wait as OpenMP does by itself."""
SPIN = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(10**6))"
STRENGTHS = (6.0, 9.0)


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """As many processes that keep a core busy; they end with the block, and with this process."""
    words = [sys.executable, "-c", SPIN, str(os.getpid())]
    with ExitStack() as ends:
        for _ in range(count):
            spinner = subprocess.Popen(words)
            ends.callback(spinner.wait)
            ends.callback(spinner.kill)
        yield


def commands_of(place: Path, args: Any) -> dict[str, list[str]]:
    """The words of each command; writes the records and images that it works on."""
    pair = ["--records", *map(str, write_records(place, STRENGTHS, args.samples, args.classes))]
    small = ["--records", *(str(BUNDLED / f"resnet8-w{k}.safetensors") for k in ("16", "64"))]
    zoo, drop = ["search", "--records", str(BUNDLED)], ["--max_accuracy_drop", "0.05"]
    images = str(image_folder(place / "images", args.images))
    network = "--model.stages.{}.network.init_args.{}"
    timm = ["--config", "imagenet_pair.yaml", "--policy.thresholds", "[0.00101]"]
    for stage, model in (("small", "mobilenetv3_small_050"), ("large", "resnet18")):
        timm += [network.format(stage, "model"), model]
        timm += [network.format(stage, "pretrained"), "false"]
    timm += ["--data.init_args.source", images, "--data.init_args.batch_size", "16"]
    known = {
        "validate": ["validate", *pair],
        "select": ["select", *pair, *drop],
        "calibrate": ["calibrate", *pair],
        "search": ["search", *pair],
        "validate, CIFAR-10": ["validate", *small],
        "select, CIFAR-10": ["select", *small, *drop],
        "calibrate, CIFAR-10": ["calibrate", *small],
        "search, CIFAR-10": zoo,
        "search, CIFAR-10, 3 stages": [*zoo, "--stages", "3"],
        "predict, digits": ["predict", "--config", "digits_pair.yaml"],
        "test, digits": ["test", "--config", "digits_pair.yaml"],
        "predict, timm": ["predict", *timm],
    }
    return {name: known[name] for name in args.commands or known}


def environment_of(settings: str) -> dict[str, str]:
    """The variables of this process, with those of OpenMP as given."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return kept | {"CUDA_VISIBLE_DEVICES": ""} | dict(one.split("=") for one in settings.split())


def main() -> None:
    """Run in turn, print medians and write all figures."""
    parser = options_parser(__doc__)
    parser.add_argument("--spinners", type=int, nargs="+", default=[0, 2, 8])
    parser.add_argument("--commands", nargs="+")
    parser.add_argument("--environments", nargs="+", default=list(ENVIRONMENTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=48)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, words in commands_of(place, args).items():
            for count in args.spinners:
                runs: dict[str, list[dict[str, float]]] = {one: [] for one in args.environments}
                with spinning(count):
                    for _ in range(args.repeats):
                        for settings, figures in runs.items():
                            out = ["--out", str(place / "out"), "--quiet"]
                            figures.append(run([*words, *out], environment_of(settings)))
                            shutil.rmtree(place / "out")
                walls = {one: [run["wall_s"] for run in figures] for one, figures in runs.items()}
                base = walls[args.environments[0]]
                for settings, seconds in walls.items():
                    ratios = [a / b for a, b in zip(seconds, base, strict=True)]
                    rows.append({
                        "command": name, "spinners": count, "environment": settings,
                        "wall_s": statistics.median(seconds), "ratio": statistics.median(ratios),
                        "runs": runs[settings],
                    })  # fmt: skip
                    shown = {key: value for key, value in rows[-1].items() if key != "runs"}
                    print(json.dumps(shown), flush=True)
    heads = [one or "(none)" for one in args.environments]
    table = Table("seconds (of those of the first)", "command", "spinners", *heads)
    for start in range(0, len(rows), len(heads)):
        cells = rows[start : start + len(heads)]
        shown_cells = (f"{one['wall_s']:.1f} ({one['ratio']:.2f})" for one in cells)
        table.add_row(cells[0]["command"], str(cells[0]["spinners"]), *shown_cells)
    show(table)
    if args.out:
        settings = {name: value for name, value in vars(args).items() if name != "out"}
        content = {"machine": machine(), "settings": settings, "rows": rows}
        write_results(args.out, content)


if __name__ == "__main__":
    main()
