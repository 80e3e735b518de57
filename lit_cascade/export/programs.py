"""The program of a stage: a trace for any number of samples, and its files."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lit_cascade.core import Score, shift
from lit_cascade.errors import CascadeError

_LARGEST = 2**30
"""Bytes of weights above which they lie beside an ONNX file: one file has at most 2 GB."""
_LONGEST = 300

BATCH, LENGTH = "n", "length"
"""Names of the dynamic axes: samples, and tokens of padded texts."""


class Input(NamedTuple):
    """One of the arrays that a stage takes.

    Attributes:
        name: of the array; the same for stages that share it.
        argument: of the stage's network; empty where arguments are positional.
        example: the array for some samples, samples along axis 0.
        axes: names of its first axes, whose sizes differ between batches.
    """

    name: str
    argument: str
    example: Tensor
    axes: tuple[str, ...] = (BATCH,)

    @property
    def shape(self) -> list[int | None]:
        """Sizes of the axes; None for those that differ between batches."""
        dynamic = len(self.axes)
        return [None] * dynamic + list(self.example.shape[dynamic:])


class ScoredStage(nn.Module):
    """Logits, score and prediction of a stage, and its class probabilities where asked for.

    Args:
        network: returns logits (N, C), or an output with an attribute `logits`.
        arguments: names of the inputs of the network; empty for positional ones.
        score: of the logits alone.
        temperature: that the score is of.
        probabilities: temperature of the class probabilities; None for none.
    """

    def __init__(
        self,
        network: nn.Module,
        arguments: Sequence[str],
        score: Score,
        temperature: float,
        probabilities: float | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self._arguments = [one for one in arguments if one]
        self._score, self._temperature, self._probabilities = score, temperature, probabilities

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        also = [] if self._probabilities is None else ["probabilities"]
        return ["logits", "score", "prediction", *also]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Logits (N, C), score (N,) float32, prediction (N,) int64, and probabilities (N, C)."""
        if self._arguments:
            output = self.network(**dict(zip(self._arguments, inputs, strict=True)))
        else:
            output = self.network(*inputs)
        logits = getattr(output, "logits", output).float()
        shifted, answer = shift(logits, self._temperature)
        found = (logits, self._score.function(shifted, answer), answer)
        if self._probabilities is None:
            return found
        weights = shift(logits, self._probabilities)[0].exp()
        return (*found, weights / weights.sum(dim=1, keepdim=True))


def trace(stage: nn.Module, inputs: Sequence[Input], name: str) -> ExportedProgram:
    """Trace a stage for any number of samples.

    Args:
        stage: in evaluation mode; its `forward` takes any number of tensors.
        inputs: with two samples or more, since one would be taken for the only number there is.
        name: of the stage, for messages.

    Raises:
        CascadeError: it cannot be traced, such as where shapes depend on the data.
    """
    axes = tuple(dict.fromkeys(range(len(one.axes)), Dim.DYNAMIC) for one in inputs)
    with _explained(name, "traced by torch.export"), torch.no_grad():
        return torch.export.export(
            stage, tuple(one.example for one in inputs), dynamic_shapes=(axes,), strict=False
        )


def write_onnx(
    program: ExportedProgram, inputs: Sequence[Input], outputs: Sequence[str], path: Path, name: str
) -> None:
    """Write a program as ONNX, by torch's exporter.

    Stack traces and comments, which hold paths of this machine, are left out.

    Args:
        program: of a stage.
        inputs: of the stage.
        outputs: their names.
        path: of the file; weights of more than a gigabyte lie beside it, in `PATH.data`.
        name: of the stage, for messages.

    Raises:
        CascadeError: an operator that ONNX has no equivalent of.
    """
    with _explained(name, "written as ONNX"):
        written: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[one.name for one in inputs],
            output_names=list(outputs),
        )
    model = written.model
    renamed = {}
    for value, one in zip(model.graph.inputs, inputs, strict=True):
        for axis, called in enumerate(one.axes):
            renamed[str(value.shape[axis])] = called
    parts = [model, model.graph, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        parts += [node, *node.outputs]
    for value in (*model.graph.inputs, *model.graph.outputs):
        parts.append(value)
        for axis, size in enumerate(value.shape):
            value.shape[axis] = renamed.get(str(size), size)
    for part in parts:
        part.metadata_props.clear()
        part.doc_string = None
    size = sum(one.const_value.nbytes for one in model.graph.initializers.values())
    written.save(str(path), external_data=size > _LARGEST)


def write_torch(program: ExportedProgram, path: Path, name: str) -> None:
    """Write a program as torch.export does, without stack traces, which hold paths.

    Args:
        program: of a stage.
        path: of the file.
        name: of the stage, for messages.
    """
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    with _explained(name, "saved by torch.export"):
        torch.export.save(program, path)


def compile_ahead(program: ExportedProgram, path: Path, name: str) -> None:
    """Compile a program by AOTInductor for this machine's CPU; it needs a C++ compiler.

    Args:
        program: of a stage.
        path: of the package.
        name: of the stage, for messages.

    Raises:
        CascadeError: it cannot be compiled.
    """
    with _explained(name, "compiled by AOTInductor"):
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))  # noqa: SLF001


@contextmanager
def _explained(name: str, what: str) -> Iterator[None]:
    """Raise what torch raises as one sentence, and silence what it prints, logs and warns of."""
    said = io.StringIO()
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:  # torch raises errors of all kinds
        raise CascadeError(f"stage {name!r} cannot be {what}: {_reason(error)}") from error
    finally:
        logging.disable(level)


def _reason(error: BaseException) -> str:
    """The innermost cause of an error of torch in a sentence."""
    while error.__cause__ is not None:
        error = error.__cause__
    kind, text = type(error).__name__, " ".join(str(error).split())
    if "data-dependent" in text or "DataDependent" in kind:
        return (
            "shapes or branches in it depend on the values of its inputs; express them by masks "
            f"or torch.where. torch says: {_cut(text)}"
        )
    return f"{kind}: {_cut(text)}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
