"""The demonstration: drawn tasks and a tiny vision-language model."""
