"""Boxes compared: geometry, matching, the thresholds of the dynamic IoU."""
