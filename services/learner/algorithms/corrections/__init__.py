"""Weights for a sampler that is another policy than the learner's; each file has `correction(tokens, settings)`."""
