"""Verifiers run in killable processes: the pool, its workers, what one may do and what it keeps."""
