"""Verifiers run in killable processes: the pool, its workers, the wire between them."""
