"""Pruning: models without the parts that matter least."""
