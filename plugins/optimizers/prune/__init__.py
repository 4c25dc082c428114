"""Quantization: weights, and where a runtime gains by it activations, in fewer bits."""
