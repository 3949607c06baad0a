"""A data set becomes the part of it that a model can learn from: rules first, then how often it already succeeds."""
