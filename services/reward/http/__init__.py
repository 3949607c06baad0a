"""The reward service over HTTP: V-Triune's routes and batches."""
