"""Engines that serve a cascade over HTTP, and what is the same for all of them."""
