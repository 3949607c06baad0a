"""Which groups make a step, under which settings, and when there are no more to make."""
