"""`lit-cascade export`: a cascade as files that run without this package."""

from __future__ import annotations

from typing import Any

import torch

from lit_cascade.cli.lightning import CascadeCLI
from lit_cascade.cli.options import ExportOptions
from lit_cascade.cli.output import Output
from lit_cascade.data import RawSample
from lit_cascade.errors import UsageError
from lit_cascade.export import Exported, export_cascade, file_names, runtime_in
from lit_cascade.live import Inputs, inputs_of
from lit_cascade.models import TextPreprocessing
from lit_cascade.report import show
from lit_cascade.utilities.units import counted


def run_models(cli: CascadeCLI, options: ExportOptions) -> None:
    """Export a cascade, and verify the files on samples."""
    model = cli.model
    policy = model.cascade.policy
    policy.required_thresholds(model.names)
    if options.verify < 0:
        raise UsageError(f"verify: expected a number of samples, 0 or more, got {options.verify}.")
    runtime_in(options.onnxruntime_web)  # a mistake is said before anything is loaded
    output = Output("export", options, file_names(policy.stages, options.to))
    inputs, raw = _samples(cli, options)
    exported = export_cascade(
        model.networks(),
        policy,
        inputs,
        output.folder,
        to=options.to,
        one_file=options.one_file,
        aot_inductor=options.aot_inductor,
        onnxruntime_web=options.onnxruntime_web,
        verified=options.verify > 0,
        embed_preprocessing=options.embed_preprocessing,
        raw=raw,
        classes=model.class_names,
        overwrite=True,  # `output` has checked it
    )
    show(*_told(exported))
    output.summarise({"verification": exported.verification, "stages": exported.policy["stages"]})
    output.write(beside=exported.files)


def _samples(cli: CascadeCLI, options: ExportOptions) -> tuple[Inputs, list[Any] | None]:
    """Samples of a split as the stages take them, and before their preprocessing if it is written.

    The model then answers among the classes of the data.

    Raises:
        UsageError: no such split, or one without samples that can be read.
    """
    model, loader = cli.model, cli.align(options.split)
    dataset, n = loader.dataset, len(loader.dataset)
    wanted = min(max(options.verify, 1), n)
    # spread over the split, which may be in the order of its classes
    positions = torch.linspace(0, n - 1, wanted).round().long().tolist()
    samples = [dataset[position] for position in positions]
    samples = [one for one in samples if not isinstance(one, RawSample) or one.left_out is None]
    if not samples:
        raise UsageError(f"split: {options.split!r} has no sample that can be read.")
    batch = (model.collate or loader.collate_fn)(samples)
    texts = all(isinstance(one, TextPreprocessing) for one in model.preprocessings())
    if not (texts or options.embed_preprocessing):
        return inputs_of(batch), None
    return inputs_of(batch), [inputs_of(tuple(one[:2])) for one in samples]


def _told(exported: Exported) -> list[str]:
    found = exported.verification
    run = f"Run them: python {exported.folder / 'run_cascade.py'} INPUTS"
    if "index.html" in exported.files:
        run = (
            f"Open http://localhost:8000 after: python -m http.server --directory {exported.folder}"
        )
    if found is None:
        return ["Not verified: with --verify 256 files and cascade answer 256 samples.", run]
    sizes = ", ".join(map(str, found["batch_sizes"]))
    nearest = min(found["nearest_score_to_threshold"].values())
    proof = (
        f"Verified on {counted(found['samples'], 'sample')} in batches of {sizes}: all decisions "
        f"are equal. Scores differ by at most {found['largest_score_difference']:.1e}, and none is "
        f"nearer to a threshold than {nearest:.1e}."
    )
    return [proof, run]
