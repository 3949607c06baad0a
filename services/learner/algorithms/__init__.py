"""Advantages, losses, corrections: formulas without a model, one file each; the file is the registration."""
