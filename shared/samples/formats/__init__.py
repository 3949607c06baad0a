"""Formats of data files, one a module: a file's groups of rows, their sources, and the rows of a group in order."""
