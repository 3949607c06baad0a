"""Advantages and losses: formulas without a model."""
