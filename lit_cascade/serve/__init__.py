"""Engines that serve a cascade over HTTP, and what is the same for all of them."""

from lit_cascade.serve.inputs import inputs_of_plain, plain_inputs
from lit_cascade.serve.scrape import Scrape, read_scrape
from lit_cascade.serve.serving import inputs_for, ray_application, server

__all__ = [
    "Scrape", "inputs_for", "inputs_of_plain", "plain_inputs", "ray_application", "read_scrape",
    "server",
]  # fmt: skip
