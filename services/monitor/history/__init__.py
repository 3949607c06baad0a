"""A run's history: folded from its streams, kept in its folder, asked for by queries."""
