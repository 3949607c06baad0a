"""What leaves the monitor: sinks and the picture of the curves."""
