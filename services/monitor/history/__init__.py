"""A run's history on disk: folded from its streams into the store of its folder, read from there by anyone."""
