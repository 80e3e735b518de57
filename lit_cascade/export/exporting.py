"""From stages and a policy to a folder of files."""

from __future__ import annotations

import errno
import importlib.metadata
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lit_cascade.core import Policy, PolicyLike, stage_outputs
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.export.page import PAGE_FILES, PAGE_README, RUNTIME_FILES, runtime_in, write_page
from lit_cascade.export.policy_file import (
    FORMAT,
    POLICY_FILE,
    check_exportable,
    evidence_of,
    hashes,
    readme,
    steps_of,
    tokenizer_json,
    tokens_of,
    with_decision_points,
)
from lit_cascade.export.programs import (
    BATCH,
    LENGTH,
    Input,
    ScoredStage,
    compile_ahead,
    trace,
    write_onnx,
    write_torch,
)
from lit_cascade.export.resizing import PillowResize
from lit_cascade.export.verifying import (
    RUNNER,
    VERIFY_FILE,
    runner_in,
    stage_files,
    verify,
    verify_arrays,
    whole_file,
)
from lit_cascade.export.whole import WHOLE_FILE, write_whole
from lit_cascade.live import (
    Inputs,
    count_flops,
    forward_logits,
    index_batch,
    named_stages,
    view_key,
    view_of,
)
from lit_cascade.models import ImagePreprocessing, Stage, TextPreprocessing
from lit_cascade.utilities.class_names import readable_names
from lit_cascade.utilities.locks import new_folder
from lit_cascade.utilities.text import json_text
from lit_cascade.utilities.versions import library_versions

Format = Literal["onnx", "torch", "web"]
FORMATS: tuple[Format, ...] = ("onnx", "torch", "web")
README = "README.md"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@dataclass(frozen=True)
class Exported:
    """What an export has written.

    Attributes:
        folder: of the files.
        files: their names; the policy's is the last one.
        policy: content of policy.json.
        verification: content of verify.json; None if nothing was verified.
    """

    folder: Path
    files: tuple[str, ...]
    policy: Mapping[str, Any]
    verification: Mapping[str, Any] | None


def export_cascade(
    stages: Mapping[str, Stage | nn.Module] | Sequence[Stage | nn.Module],
    policy: PolicyLike,
    inputs: Inputs,
    folder: Path | str,
    *,
    to: Format = "onnx",
    one_file: bool = False,
    aot_inductor: bool = False,
    verified: bool = True,
    embed_preprocessing: bool = False,
    raw: Sequence[Any] | None = None,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
    onnxruntime_web: Path | str | None = None,
) -> Exported:
    """Write a cascade as files that run without this package, and prove that they decide the same.

    All files are made and verified in a temporary folder beside; after an error there are none.

    Args:
        stages: as for `LitCascade`, on the CPU.
        policy: as for `Cascade`, with thresholds.
        inputs: a batch of samples as the stages take them: the shapes are taken from it, and on all
            of it files and cascade are compared.
        folder: for the files; need not exist.
        to: `onnx`; `web`, the same with a page that runs it in a browser; or `torch` for programs
            of torch.export.
        one_file: also write the whole cascade as one ONNX file.
        aot_inductor: compile the programs of torch.export for this machine's CPU.
        verified: whether to compare; otherwise no scores tell where decision points may lie.
        embed_preprocessing: also write programs that resize and crop images as Pillow does.
        raw: the samples of the batch before their preprocessing, so that it is compared as well:
            texts or pairs of them where stages have tokenizers; images of Pillow where
            preprocessing is embedded.
        classes: names of the classes in logit order; by default those of the stages, or None.
        overwrite: replace files of the same names.
        onnxruntime_web: the folder `dist` of this npm package, of which the page's folder gets what
            the page needs; without it the page says how to get it.

    Raises:
        UsageError: a policy that does not fit or cannot be exported, class names of another number
            than the logits, or a folder that has such files or cannot be written to.
        CascadeError: an extra that is not installed, a stage that cannot be exported, files that
            decide otherwise, or a full disk.
    """
    check_name(to, FORMATS, "to")
    _check_options(
        to,
        {"one_file": one_file, "embed_preprocessing": embed_preprocessing},
        {"torch": {"aot_inductor": aot_inductor}, "web": {"onnxruntime_web": onnxruntime_web}},
    )
    runtime = runtime_in(onnxruntime_web)
    if to != "torch":
        _check_installed()
    by_name = named_stages(stages, policy, (nn.Module, Stage), "an nn.Module or a Stage")
    networks = {
        name: (stage.build(name) if isinstance(stage, Stage) else stage).eval()
        for name, stage in by_name.items()
    }
    rule = Policy.of(policy, tuple(networks))
    check_exportable(rule)
    target = Path(folder)
    there = [name for name in file_names(rule.stages, to) if (target / name).exists()]
    if there and not overwrite:
        raise UsageError(
            f"folder: {str(target)!r} already holds {', '.join(there)}; choose another one, or add "
            "overwrite=True."
        )
    logits = _logits(networks, inputs)
    names = _classes(classes, networks, logits)
    try:
        with new_folder(target), tempfile.TemporaryDirectory(dir=target, prefix=".") as temporary:
            made = Path(temporary)
            ending = ".onnx" if to != "torch" else ".aot.pt2" if aot_inductor else ".pt2"
            written = _Folder(made, networks, rule, inputs, logits if verified else None, ending)
            written.write_tokenizers()  # what is refused at once comes first
            if embed_preprocessing:
                written.write_resizing()
            written.write_stages()
            page = PAGE_README if to == "web" else ""
            if page:
                write_page(made, runtime)
            written.write_policy(names, page, one_file=one_file)
            verification = written.verify(raw) if verified else None
            files = sorted((path.name for path in made.iterdir()), key=_order)
            for name in there:  # of an older export
                (target / name).unlink()
            for name in files:
                (made / name).replace(target / name)
    except OSError as error:
        kind = CascadeError if error.errno in _FULL else UsageError
        raise kind(f"cannot write {str(target)!r}: {error.strerror or error}.") from error
    return Exported(target, tuple(files), written.policy, verification)


def file_names(stages: int, to: Format = "onnx") -> list[str]:
    """The files that an export of so many stages may write."""
    endings = (".pt2", ".aot.pt2") if to == "torch" else (".onnx", ".onnx.data")
    programs = [f"stage-{k}{ending}" for k in range(stages) for ending in endings]
    views = [
        f"{name}" for k in range(stages) for name in (f"tokenizer-{k}.json", f"preprocess-{k}.onnx")
    ]
    return [
        *programs,
        *views,
        WHOLE_FILE,
        RUNNER.name,
        README,
        VERIFY_FILE,
        POLICY_FILE,
        *((*PAGE_FILES, *RUNTIME_FILES) if to == "web" else ()),
    ]


def _order(name: str) -> tuple[bool, str]:
    """The policy comes last: without it there is no exported cascade."""
    return name == POLICY_FILE, name


def _check_options(
    to: str, of_onnx: Mapping[str, Any], of_one: Mapping[str, Mapping[str, Any]]
) -> None:
    """Check that a format has the options that were given.

    Args:
        to: the format.
        of_onnx: options of formats with ONNX files.
        of_one: options of one format, by its name.

    Raises:
        UsageError: it does not have one of them.
    """
    wanted = {"onnx": of_onnx if to == "torch" else {}} | dict(of_one)
    for kind, options in wanted.items():
        for name, value in options.items():
            if value and to != kind:
                raise UsageError(f"{name}: expected to={kind!r}, got {to!r}.")


def _check_installed() -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(module) is None:
            raise CascadeError(
                f"export needs {module}, which is not installed: pip install 'lit-cascade[onnx]'."
            )


def _logits(networks: Mapping[str, nn.Module], inputs: Inputs) -> list[Tensor]:
    with torch.inference_mode():
        logits = [
            forward_logits(network, inputs, f"stage {name!r}").float()
            for name, network in networks.items()
        ]
    widths = {name: one.shape[1] for name, one in zip(networks, logits, strict=True)}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{name!r} has {width}" for name, width in widths.items())
        raise CascadeError(f"stages: expected the same classes of all, but stage {told}.")
    return logits


def _classes(
    given: Sequence[str] | None, networks: Mapping[str, nn.Module], logits: Sequence[Tensor]
) -> tuple[str, ...] | None:
    """Names of the classes in logit order.

    Raises:
        UsageError: another number of names than of logits, or stages with different names.
    """
    known = {name: getattr(network, "class_names", None) for name, network in networks.items()}
    lists = {name: tuple(one) for name, one in known.items() if one is not None}
    if given is not None:
        lists = {"classes": tuple(given), **lists}
    for name, one in lists.items():
        first = next(iter(lists))
        if one != lists[first]:
            raise UsageError(
                f"classes: those of {name!r} are {_shown(one)}; those of {first!r} are "
                f"{_shown(lists[first])}. Expected the same in the same order."
            )
        if len(one) != logits[0].shape[1]:
            raise UsageError(
                f"classes: expected {logits[0].shape[1]} names, one per logit, got {len(one)}."
            )
    return next(iter(lists.values()), None)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


class _Folder:
    """The files of a cascade, while they are made.

    Args:
        path: of an empty folder.
        networks: the stages by name.
        rule: the policy.
        inputs: a batch of samples.
        logits: of each stage on them; None where no scores are to be read.
        ending: of the stages' files, which tells their format.
    """

    def __init__(
        self,
        path: Path,
        networks: Mapping[str, nn.Module],
        rule: Policy,
        inputs: Inputs,
        logits: Sequence[Tensor] | None,
        ending: str,
    ) -> None:
        self.ending = ending
        self.path, self.networks, self.rule, self.samples = path, networks, rule, inputs
        self.policy: dict[str, Any] = {}
        self.scores = [torch.empty(0)] * rule.stages
        if logits is not None:
            self.scores = stage_outputs(logits, rule).scores
        self.inputs = inputs_of(networks, inputs)
        self.outputs: list[str] = []
        self.files: dict[str, str] = {}  # tokenizers and programs that resize, by view

    def write_stages(self) -> None:
        """Write the program of each stage, and the tokenizers."""
        for k, (name, network) in enumerate(self.networks.items()):
            score, temperature = self.rule.confidence_of(k)
            of_all = self.rule.temperatures[k] if self.rule.combine == "average" else None
            arguments = [one.argument for one in self.inputs[k]]
            stage = ScoredStage(network, arguments, score, temperature, of_all).eval()
            self.outputs = stage.outputs
            traced = [one._replace(example=_two(one.example)) for one in self.inputs[k]]
            program = trace(stage, traced, name)
            path = self.path / self.file_of(k)
            if self.ending == ".onnx":
                write_onnx(program, traced, stage.outputs, path, name)
            elif self.ending == ".pt2":
                write_torch(program, path, name)
            else:
                compile_ahead(program, path, name)

    def write_tokenizers(self) -> None:
        """Write the tokenizer of each stage that has one; stages may share it."""
        for network in self.networks.values():
            preprocessing = getattr(network, "preprocessing", None)
            if isinstance(preprocessing, TextPreprocessing):
                name = self.files.setdefault(preprocessing.key, f"tokenizer-{len(self.files)}.json")
                text = tokenizer_json(preprocessing)
                (self.path / name).write_text(text, encoding="utf-8")

    def write_resizing(self) -> None:
        """Write a program that resizes and crops the images of each view.

        Raises:
            UsageError: stages that take no images.
            CascadeError: steps that are not exact in a program.
        """
        for k, (name, network) in enumerate(self.networks.items()):
            preprocessing = getattr(network, "preprocessing", None)
            if not isinstance(preprocessing, ImagePreprocessing):
                raise UsageError(f"embed_preprocessing: stage {name!r} resizes no images.")
            if preprocessing.key in self.files:
                continue
            file = f"preprocess-{len(self.files)}.onnx"
            image = torch.zeros(97, 131, preprocessing.input_size[0], dtype=torch.uint8)
            inputs = [Input("image", "", image, ("height", "width"))]
            program = trace(PillowResize(preprocessing, name).eval(), inputs, name)
            write_onnx(program, inputs, [self.inputs[k][0].name], self.path / file, name)
            self.files[preprocessing.key] = file

    def _plain(self, sample: Any) -> Any:
        """A sample as the runner takes it: a text, a pair of them, or the bytes of an image."""
        if not hasattr(sample, "convert"):  # not of Pillow
            return sample
        first = next(iter(self.networks.values())).preprocessing
        grey = isinstance(first, ImagePreprocessing) and first.input_size[0] == 1
        pixels = np.array(sample.convert("L" if grey else "RGB"))
        return pixels[:, :, None] if grey else pixels

    def file_of(self, k: int) -> str:
        """Name of the file of a stage."""
        return f"stage-{k}{self.ending}"

    def write_policy(
        self, classes: Sequence[str] | None, more: str = "", *, one_file: bool
    ) -> None:
        """Write policy.json, the runner and README.md, and the whole cascade if it is asked for."""
        points = with_decision_points(self.rule, self.scores)
        stages = []
        for k, (name, network) in enumerate(self.networks.items()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                flops = count_flops(network, index_batch(self.samples, slice(0, 1)))
            preprocessing = getattr(network, "preprocessing", None)
            file = self.files.get(view_key(preprocessing), "")
            text = isinstance(preprocessing, TextPreprocessing)
            facts: dict[str, Any] = {
                "name": name,
                "file": self.file_of(k),
                "inputs": [
                    {
                        "name": one.name,
                        "dtype": str(one.example.dtype).removeprefix("torch."),
                        "shape": one.shape,
                        **({"tokens": tokens_of(one.argument, name)} if text else {}),
                        **({"range": _ends(one.example)} if preprocessing is None else {}),
                    }
                    for one in self.inputs[k]
                ],
                "outputs": self.outputs,
                "preprocessing": steps_of(preprocessing, file),
                "temperature": self.rule.temperatures[k],
                "flops": flops,
            }
            if k < len(points):
                threshold, floor = points[k]
                chosen = self.rule.required_thresholds()[k]
                facts |= {"threshold": threshold, "floor": floor, "chosen_threshold": chosen}
            stages.append(facts)
        shutil.copyfile(RUNNER, self.path / RUNNER.name)
        readable = None if classes is None else readable_names(classes)
        also = ("onnx", "onnxscript") if self.ending == ".onnx" else ()
        versions = {name: importlib.metadata.version(name) for name in also}
        self.policy = {
            "format": FORMAT,
            "to": "onnx" if self.ending == ".onnx" else "torch",
            "score": self.rule.score,
            "combine": self.rule.combine,
            "classes": None if classes is None else list(classes),
            **({"readable": [readable[one] for one in classes or ()]} if readable else {}),
            "stages": stages,
            "fingerprint": self.rule.fingerprint,
            "evidence": evidence_of(self.rule),
            "versions": library_versions() | versions,
        }
        if one_file:
            outputs = write_whole(self.path, self.policy)
            self.policy["one_file"] = {"file": WHOLE_FILE, "outputs": outputs}
        self.policy["sha256"] = hashes(self.path.iterdir())
        (self.path / POLICY_FILE).write_text(json_text(self.policy), encoding="utf-8")
        (self.path / README).write_text(readme(self.policy) + more, encoding="utf-8")

    def verify(self, raw: Sequence[Any] | None) -> dict[str, Any]:
        """Compare the files with the cascade, and write verify.json.

        Raises:
            CascadeError: they decide otherwise.
        """
        runner = runner_in(self.path)
        arrays = {one.name: one.example.numpy() for stage in self.inputs for one in stage}
        if raw is not None:
            verify_arrays(runner, [self._plain(one) for one in raw], arrays)
        runs = {"files of the stages": stage_files(runner)}
        if "one_file" in self.policy:
            runs[WHOLE_FILE] = whole_file(self.path / WHOLE_FILE)
        found = verify(self.networks, self.rule, self.samples, arrays, self.scores, runs)
        (self.path / VERIFY_FILE).write_text(json_text(found), encoding="utf-8")
        return found


def inputs_of(networks: Mapping[str, nn.Module], inputs: Inputs) -> list[list[Input]]:
    """Inputs of each stage; stages with the same preprocessing share theirs."""
    views: dict[str, int] = {}
    found = []
    for network in networks.values():
        preprocessing = getattr(network, "preprocessing", None)
        number = views.setdefault(view_key(preprocessing), len(views))
        view, suffix = view_of(network, inputs), f"_{number}" if number else ""
        padded = hasattr(preprocessing, "collate")  # to the longest sample of a batch
        if isinstance(view, Tensor):
            named = [("input", "", view)]
        elif isinstance(view, Mapping):
            named = [(name, name, tensor) for name, tensor in view.items()]
        else:
            named = [(f"input{i}", "", tensor) for i, tensor in enumerate(view)]
        found.append(
            [
                Input(
                    f"{name}{suffix}",
                    argument,
                    tensor.detach().cpu(),
                    (BATCH, LENGTH) if padded and tensor.ndim > 1 else (BATCH,),
                )
                for name, argument, tensor in named
            ]
        )
    return found


def _two(samples: Tensor) -> Tensor:
    """Two samples: a trace of one would hold for one only."""
    return samples[:2] if len(samples) > 1 else samples.repeat_interleave(2, dim=0)


def _ends(array: Tensor) -> list[float]:
    """Least and largest finite number of some samples; nothing without any."""
    finite = array[array.isfinite()].double()
    return [float(finite.min()), float(finite.max())] if finite.numel() else []
