"""Helpers that several rooms share: files, tensors, resuming, versions, units, class names."""
