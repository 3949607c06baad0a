"""Jobs: the file that describes one, its record, who works on it."""
