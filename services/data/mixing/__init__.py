"""Which row an ordinal is, and its words."""
