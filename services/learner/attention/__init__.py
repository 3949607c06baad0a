"""Prompt and responses packed in one row: the batches, and attention over them."""
