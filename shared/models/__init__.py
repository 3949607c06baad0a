"""What sampler and learner must treat alike in a vision-language model."""
