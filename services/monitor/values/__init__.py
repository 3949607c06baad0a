"""What a run is told in: scored groups as numbers, points of the curves and rows of a file; every series by name."""
