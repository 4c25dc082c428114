"""Optimizers: from a model to a smaller or faster one, whatever its task."""
