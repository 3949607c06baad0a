"""Pages generated from the code; nothing of it ships."""
