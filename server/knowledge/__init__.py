"""Served knowledge bases: documents go in through an embedding model, questions are answered by a reader with its sources."""
