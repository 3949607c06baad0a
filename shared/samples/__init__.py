"""Samples: the schema of data files, images, boxes, and the verifiers that there are."""
