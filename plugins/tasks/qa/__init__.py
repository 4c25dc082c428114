"""Extractive question answering: the parts of a context that answer a question."""
