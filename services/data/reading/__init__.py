"""Rows of data files made ready: read by group, checked once, their images in the blob store."""
