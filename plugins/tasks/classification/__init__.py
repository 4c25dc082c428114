"""Text classification: one label or several, of a text or of a pair."""
