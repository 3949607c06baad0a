"""How a completion is read: its tags, its tables, objects and lists, and the dialect that holds."""
