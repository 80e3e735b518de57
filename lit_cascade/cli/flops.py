"""`lit-cascade flops`: what published architectures cost, without their weights."""

from __future__ import annotations

from rich.console import Console
from rich.progress import track

from lit_cascade.cli.options import FlopsOptions
from lit_cascade.cli.output import Output
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.models import architecture_cost, find_architectures
from lit_cascade.report import flops_csv, flops_summary, inform, print_flops
from lit_cascade.utilities.units import counted


def run_files(options: FlopsOptions) -> None:
    """Count the FLOPs of architectures, and leave out those that cannot be built."""
    if options.img_size is not None and options.img_size < 1:
        raise UsageError(f"--img_size: expected at least 1 pixel, got {options.img_size}.")
    architectures = find_architectures(options.names or [])
    output = Output("flops", options, ["flops.csv"])
    console = Console(stderr=True)
    hidden = options.quiet or not console.is_terminal
    costs, failed = [], dict[str, str]()
    for one in track(architectures, "counting", console=console, transient=True, disable=hidden):
        try:
            costs.append(architecture_cost(one, options.img_size))
        except CascadeError as error:
            failed[one.name] = str(error)
            inform(f"Not counted: {error}")
    if not costs:
        which = counted(len(architectures), "architecture")
        raise CascadeError(f"no FLOPs: {which} could not be counted, see above.")
    print_flops(costs, failed)
    output.summarise(flops_summary(costs, failed))
    output.add("flops.csv", flops_csv(costs))
    output.write()
