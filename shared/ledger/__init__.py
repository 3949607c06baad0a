"""The staleness ledger: versions, windows, what is in flight; a view in Redis."""
