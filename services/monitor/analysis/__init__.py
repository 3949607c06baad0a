"""What is asked of a run: its curves and samples, its times, its report, why a source stands still, how runs differ."""
