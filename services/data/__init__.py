"""data: rows of parquet files → prompts, in the job's seeded order, as far as the window is open (README.md)."""
