"""Advantages of the completions of one group; each file has `advantages(rewards, settings)`."""
