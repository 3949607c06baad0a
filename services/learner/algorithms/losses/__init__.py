"""The policy loss of every token; each file has `loss(tokens, settings)`."""
