"""One family a file: its `FAMILIES` are the registration (`shared/models/catalog.py` finds it)."""
