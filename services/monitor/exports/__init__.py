"""What leaves the monitor: sinks, and files to take along: the picture of the curves, their points, images."""
