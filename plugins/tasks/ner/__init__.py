"""Named entities: what a text names, where, and of which kind; flat, or one within another."""
