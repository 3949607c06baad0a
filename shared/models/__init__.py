"""What sampler and learner must treat alike about a vision-language model: one family a file, facts without torch."""
