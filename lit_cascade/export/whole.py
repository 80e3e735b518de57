"""The whole cascade as one ONNX file, for any number of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lit_cascade.errors import CascadeError
from lit_cascade.export.programs import BATCH

WHOLE_FILE = "cascade.onnx"
LIMITS = ("thresholds", "floors")
"""Constants (stages - 1,) float32 of the file."""
_LARGEST = 2**31 - 2**20
"""Bytes of an ONNX file, with some to spare for what is added."""


@dataclass
class _Graph:
    """Nodes and constants of a graph, or of a branch of it.

    Args:
        prefix: of the names, which are unique in the whole file.
    """

    prefix: str
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    _count: int = 0

    def name(self) -> str:
        """A new name."""
        self._count += 1
        return f"{self.prefix}{self._count}"

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node; the name of its output."""
        from onnx import helper  # noqa: PLC0415 - of an extra

        output = output or self.name()
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: Any) -> str:
        """Add a constant; its name."""
        from onnx import numpy_helper  # noqa: PLC0415

        name = self.name()
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name


@dataclass(frozen=True)
class _Samples:
    """What a stage and those after it read of some samples.

    Attributes:
        inputs: name of each array, by its name in policy.json.
        said: predictions of the stages before.
        total: sum of their probabilities; empty before the first stage.
    """

    inputs: Mapping[str, str]
    said: tuple[str, ...] = ()
    total: str = ""


class _Composer:
    def __init__(self, models: Sequence[Any], policy: Mapping[str, Any]) -> None:
        self._models, self._policy = models, policy
        self._averages = policy["combine"] == "average"
        self.outputs = (
            "probabilities" if self._averages else "logits", "score", "prediction", "stage",
        )  # fmt: skip

    def stage(self, k: int, graph: _Graph, samples: _Samples, to: Sequence[str]) -> None:
        """Add stage k and all after it; `to` are the names of the outputs."""
        from onnx import compose  # noqa: PLC0415

        facts = self._policy["stages"][k]
        prefix = f"stage{k}_"
        model = compose.add_prefix(self._models[k], prefix).graph
        for one in facts["inputs"]:
            graph.add("Identity", samples.inputs[one["name"]], output=prefix + one["name"])
        graph.nodes.extend(model.node)
        graph.constants.extend(model.initializer)
        table, score, alone = (prefix + name for name in ("logits", "score", "prediction"))
        prediction, total = alone, ""
        if self._policy["score"] == "agreement" and samples.said:
            agreed = ""
            for before in samples.said:
                same = graph.add("Equal", before, alone)
                agreed = graph.add("Or", agreed, same) if agreed else same
            score = graph.add("Add", score, graph.add("Cast", agreed, to=_FLOAT))
        if self._averages:
            total = prefix + "probabilities"
            if samples.total:
                total = graph.add("Add", samples.total, total)
            prediction = graph.add("ArgMax", total, axis=1, keepdims=0)
            ran = graph.constant(k + 1, np.float32)
            table = graph.add("Div", total, ran) if k else total
        number = graph.add("Expand", graph.constant([k], np.int64), graph.add("Shape", alone))
        found = (table, score, prediction, number)
        if k + 1 == len(self._models):
            for name, output in zip(found, to, strict=True):
                graph.add("Identity", name, output=output)
            return
        at = graph.constant(k, np.int64)
        reached, below = (graph.add("Gather", name, at, axis=0) for name in LIMITS)
        answered = graph.add(
            "Or", graph.add("GreaterOrEqual", score, reached), graph.add("Less", score, below)
        )
        deferred = graph.add("Not", answered)
        count = graph.add("ReduceSum", graph.add("Cast", deferred, to=_INT64), keepdims=0)
        some = graph.add("Greater", count, graph.constant(0, np.int64))
        self._defer(k, graph, samples, (alone, total), deferred, some, found, to)

    def _defer(
        self,
        k: int,
        graph: _Graph,
        samples: _Samples,
        own: tuple[str, str],
        deferred: str,
        some: str,
        found: Sequence[str],
        to: Sequence[str],
    ) -> None:
        """Add a branch in which the next stages answer the deferred samples, if there are any."""
        from onnx import helper  # noqa: PLC0415

        branch, other = _Graph(f"deferred{k}_"), _Graph(f"answered{k}_")

        def rows(name: str) -> str:
            return branch.add("Compress", name, deferred, axis=0) if name else ""

        later = {x["name"] for one in self._policy["stages"][k + 1 :] for x in one["inputs"]}
        said = (*samples.said, own[0]) if self._policy["score"] == "agreement" else ()
        taken = _Samples(
            {name: rows(one) for name, one in samples.inputs.items() if name in later},
            tuple(map(rows, said)),
            rows(own[1]),
        )
        parts = [branch.name() for _ in found]
        self.stage(k + 1, branch, taken, parts)
        index = branch.add("Transpose", branch.add("NonZero", deferred), perm=[1, 0])
        whole = [
            branch.add("ScatterND", name, index, part)
            for name, part in zip(found, parts, strict=True)
        ]
        same = [other.add("Identity", name) for name in found]
        made = {}
        for key, one, names in (("then", branch, whole), ("else", other, same)):
            values = [
                helper.make_tensor_value_info(name, kind, None)
                for name, kind in zip(names, _KINDS, strict=True)
            ]
            made[f"{key}_branch"] = helper.make_graph(
                one.nodes, one.prefix, [], values, one.constants
            )
        graph.nodes.append(helper.make_node("If", [some], list(to), **made))


_FLOAT, _INT64 = 1, 7
"""float32 and int64, as ONNX numbers types."""
_KINDS = (_FLOAT, _FLOAT, _INT64, _INT64)
"""Types of the outputs."""


def write_whole(folder: Path, policy: Mapping[str, Any]) -> list[str]:
    """Compose the stages' files of a folder into one file.

    Later stages stand in branches of `If`: `Compress` picks the deferred samples, and `ScatterND`
    puts the answers back.

    Args:
        folder: with the stages' files.
        policy: content of policy.json.

    Returns:
        Names of the outputs.

    Raises:
        CascadeError: a file of more than 2 GB, which ONNX does not have.
    """
    import onnx  # noqa: PLC0415
    from onnx import helper, inliner  # noqa: PLC0415

    paths = [folder / one["file"] for one in policy["stages"]]
    size = sum(path.stat().st_size for one in paths for path in folder.glob(f"{one.name}*"))
    if size > _LARGEST:
        raise CascadeError(
            f"one_file: an ONNX file has at most 2 GB, and the stages have {size / 1e9:.1f} GB; "
            "leave it out."
        )
    models = [inliner.inline_local_functions(onnx.load(path)) for path in paths]
    composer, graph = _Composer(models, policy), _Graph("cascade_")
    arrays = {one.name: one for model in models for one in model.graph.input}
    inputs = [arrays[name] for name in arrays]
    composer.stage(0, graph, _Samples({name: name for name in arrays}), composer.outputs)
    for name, key in zip(LIMITS, ("threshold", "floor"), strict=True):
        values = np.array([one[key] for one in policy["stages"][:-1]], np.float32)
        graph.constants.append(onnx.numpy_helper.from_array(values, name))
    shapes = ([BATCH, "classes"], [BATCH], [BATCH], [BATCH])
    outputs = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in zip(composer.outputs, _KINDS, shapes, strict=True)
    ]
    opsets = {one.domain: one for model in models for one in model.opset_import}
    model = helper.make_model(
        helper.make_graph(graph.nodes, "cascade", inputs, outputs, graph.constants),
        opset_imports=list(opsets.values()),
        ir_version=max(model.ir_version for model in models),
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / WHOLE_FILE)
    return list(composer.outputs)
