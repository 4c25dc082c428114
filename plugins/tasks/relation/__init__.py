"""Relation classification: how two marked parts of a text are related."""
