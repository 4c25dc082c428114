"""Training a small adapter, or all weights as the reference beside it."""
