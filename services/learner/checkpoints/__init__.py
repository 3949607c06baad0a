"""The state that a restart continues from, when it is written and what may be deleted after it."""
