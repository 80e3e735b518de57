"""`lit-cascade serve`: a cascade over HTTP."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from lit_cascade.cli.lightning import CascadeCLI
from lit_cascade.cli.options import ServeOptions
from lit_cascade.data import (
    STDIN,
    UnlabelledImages,
    UnlabelledTexts,
    class_names_of,
    split_loader,
)
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live import inputs_of
from lit_cascade.serve import inputs_for, server


def run_models(cli: CascadeCLI, options: ServeOptions) -> None:
    """Serve a cascade until it is stopped."""
    model = cli.model
    model.cascade.policy.required_thresholds(model.names)
    inputs = _inputs(cli, options.max_pixels)
    served = server(
        model.networks(), model.cascade.policy, options, inputs=inputs, classes=model.class_names
    )
    served.serve()


def _inputs(cli: CascadeCLI, max_pixels: int) -> Any:
    """What requests hold, as the config's data say; the model then answers among their classes.

    Images and texts need no data to be at hand; of other data one sample is read.
    """
    networks = list(cli.model.networks().values())
    try:
        data = cli.datamodule.unlabelled([STDIN])
    except (AttributeError, UsageError):
        data = None
    if isinstance(data, UnlabelledImages | UnlabelledTexts):
        cli.model.align(data.classes, fewer=True)
        if cli.model.class_names is None:  # only labelled data may name them, if they are at hand
            with suppress(CascadeError):
                cli.model.class_names = cli.labelled_classes()
        if isinstance(data, UnlabelledImages):
            return inputs_for(networks, None, max_pixels, data.size)
        return inputs_for(networks, ("", "") if data.pairs else "", max_pixels)
    cli.datamodule.prepare_data()
    cli.datamodule.setup("validate")
    dataset = split_loader(cli.datamodule, "validation").dataset
    names, fewer = class_names_of(dataset)
    given = getattr(cli.datamodule, "class_names", None)
    cli.model.align(names if given is None else tuple(map(str, given)), fewer=fewer)
    return inputs_for(networks, inputs_of(dataset[0]), max_pixels)
