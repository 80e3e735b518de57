"""The server that `tests.benchmarks.serving` measures.

python -m tests.benchmarks.served --port 8000 [--engine litserve] [--models sleeping] [--mode M]

Models of a CPU have a core for themselves, one batch at a time; HTTP, queues and clients have the
other ones. Images come as files of different sizes.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import math
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from lit_cascade import Cascade, Policy, load_cascade
from lit_cascade.data import DigitsData
from lit_cascade.options import ServingOptions
from lit_cascade.serve import ray_application, server
from lit_cascade.serve.inputs import ArrayInput, ImageInput, Inputs, parse_request
from lit_cascade.serve.stage import Sample, StageRunner
from tests.serve import sleeping

BATCH = 16
NAMES = ("small", "large")
MODES = ("large", "whole", "stages", "engine")
TIMM = {"small": "mobilenetv3_small_050", "large": "resnet34"}
_POOL = 400


class Kind(NamedTuple):
    """What is served.

    Attributes:
        builds: make the stages, small and large.
        inputs: what requests hold.
        content_type: of a request.
        bodies: of all requests.
    """

    builds: Mapping[str, Callable[[], nn.Module]]
    inputs: Inputs
    content_type: str
    bodies: list[bytes]


def kind_of(models: str, scale: float = 1.0, device: str | None = None) -> Kind:
    """What is served.

    Args:
        models: `sleeping`, `digits`, `cifar10`, the bundled pairs, or `timm`, with random weights.
        scale: factor of the times of sleeping stages.
        device: file that is locked while a batch runs; None for devices of their own.
    """
    builds: dict[str, Callable[[], nn.Module]]
    if models == "sleeping":
        builds = {name: partial(sleeping.Sleeping, name, scale, device) for name in NAMES}
        some = sleeping.pool()
    elif models == "digits":
        builds = {name: partial(OnCore, partial(_of_config, "digits_pair.yaml", name), device)
                  for name in NAMES}  # fmt: skip
        some = torch.stack([image for image, _ in DigitsData().dataset("validation")])
    else:
        make = partial(_of_config, "cifar10/pair.yaml") if models == "cifar10" else _of_timm
        builds = {name: partial(OnCore, partial(make, name), device) for name in NAMES}
        size = 32 if models == "cifar10" else 128
        return Kind(builds, ImageInput(size=size), "image/jpeg", images(size))
    bodies = [json.dumps({"array": one.tolist()}).encode() for one in some]
    return Kind(builds, ArrayInput(some[0]), "application/json", bodies)


def _of_config(config: str, name: str) -> nn.Module:
    return list(load_cascade(config).networks().values())[NAMES.index(name)].eval()


def _of_timm(name: str) -> nn.Module:
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(NAMES.index(name))
        return Photographs(timm.create_model(TIMM[name], num_classes=10)).eval()


def images(size: int) -> list[bytes]:
    """JPEG files, of `size` to four times as many pixels in height and width."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(_POOL):
        shape = (int(rng.integers(3, 9)), int(rng.integers(3, 9)), 3)
        colours = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        height, width = (int(one) for one in rng.integers(size, 4 * size, 2))
        buffer = io.BytesIO()
        colours.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    return files


class Photographs(nn.Module):
    """A network for bytes from 0 to 255."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any) -> Any:
        return self.net(x / 64 - 2)


class OnCore(nn.Module):
    """A network that runs on the first core alone, one batch at a time on it.

    Args:
        build: makes it.
        device: file that is locked while it runs; None locks nothing and keeps to no core.
    """

    def __init__(self, build: Callable[[], nn.Module], device: str | None = None) -> None:
        super().__init__()
        self.net, self.device = build(), device

    def forward(self, x: Any) -> Any:
        if not self.device:
            return self.net(x)
        os.sched_setaffinity(0, {0})
        with open(self.device) as file:  # noqa: PTH123
            fcntl.flock(file, fcntl.LOCK_EX)
            return self.net(x)


def leave_a_core() -> None:
    """Keep this process, and those that it starts, from the core of the models."""
    others = set(range(os.cpu_count() or 1)) - {0}
    if others:
        os.sched_setaffinity(0, others)


class Whole(nn.Module):
    """A cascade in one predict: what an engine without stages can do."""

    def __init__(self, builds: Mapping[str, Callable[[], nn.Module]], policy: Policy) -> None:
        super().__init__()
        self.cascade = Cascade({name: build() for name, build in builds.items()}, policy)

    def forward(self, x: Any) -> Any:
        return self.cascade(x).logits


def inputs_of(kind: Kind) -> torch.Tensor:
    """Inputs of all requests, as the stages take them."""
    queries = (parse_request(kind.inputs, kind.content_type, body) for body in kind.bodies)
    return torch.stack([kind.inputs.raw(one.input) for one in queries])


def policy_of(kind: Kind, deferred: float) -> Policy:
    """A policy that defers about a share of the requests: in the widest gap of scores there."""
    with torch.inference_mode():
        scores = Policy((0.5,)).judge(0, kind.builds["small"]()(inputs_of(kind))).score
    ordered = scores.double().sort().values
    at, slack = round(deferred * len(ordered)), max(1, len(ordered) // 100)
    gaps = ordered[at - slack : at + slack + 1].diff()
    best = at - slack + int(gaps.argmax())
    return Policy(((ordered[best] + ordered[best + 1]).item() / 2,), names=NAMES)


def expected(kind: Kind, policy: Policy) -> list[tuple[int, str, float]]:
    """Prediction, stage and score of `Cascade` for each request."""
    cascade = Cascade({name: build() for name, build in kind.builds.items()}, policy)
    with torch.inference_mode():
        output = cascade(inputs_of(kind))
    names = [NAMES[k] for k in output.stage.tolist()]
    return list(zip(output.prediction.tolist(), names, output.score.tolist(), strict=True))


def seconds_of(kind: Kind, name: str) -> float:
    """Median seconds of a sample in a full batch, with its preprocessing."""
    queries = [
        parse_request(kind.inputs, kind.content_type, body) for body in kind.bodies[: 8 * BATCH]
    ]
    rule = Policy((math.inf,), names=NAMES)
    stage = StageRunner(NAMES.index(name), NAMES, kind.builds[name](), rule, kind.inputs)
    taken = []
    for start in range(0, len(queries), BATCH):
        batch = [Sample(one.input) for one in queries[start : start + BATCH]]
        began = time.perf_counter()
        stage(batch)
        taken.append((time.perf_counter() - began) / BATCH)
    return sorted(taken)[len(taken) // 2]


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine", choices=["litserve", "ray"], default="litserve")
    parser.add_argument("--models", default="sleeping")
    parser.add_argument("--mode", choices=MODES, default="stages")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--deferred", type=float, default=0.1)
    parser.add_argument("--wait", type=float)
    args = parser.parse_args()
    options = ServingOptions(
        port=args.port, batch_size=BATCH, wait=args.wait, threads=1, queue_size=100_000
    )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        device = Path(folder, "device")
        device.touch()
        kind = kind_of(args.models, args.scale, str(device))
        builds, rule = kind.builds, policy_of(kind_of(args.models, 0.0), args.deferred)
        if args.models != "sleeping":
            leave_a_core()
        if args.mode in {"large", "whole"}:  # the first stage answers everything
            whole = partial(Whole, builds, rule) if args.mode == "whole" else builds["large"]
            builds, rule = {"all": whole, "none": nn.Flatten}, Policy((-math.inf,))
        if args.engine == "litserve":
            stages = {name: build() for name, build in builds.items()}
            server(stages, rule, options, inputs=kind.inputs).serve()
        else:
            _serve_on_ray(ray_application(builds, rule, kind.inputs, None, options), args.port)


def _serve_on_ray(application: Any, port: int) -> None:
    """Serve on a cluster of this machine alone."""
    import ray
    from ray import serve

    ray.init(address="local", num_cpus=8, include_dashboard=False, object_store_memory=200_000_000)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application, name="lit-cascade", route_prefix="/")
        signal.pause()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
