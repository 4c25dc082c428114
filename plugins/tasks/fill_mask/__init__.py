"""Masked language models: pretraining an encoder on plain text, and filling the gaps of a text with it."""
