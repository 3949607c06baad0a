"""Mathematical answers compared: math-verify, kept exact and made quick."""
