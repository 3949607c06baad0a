"""The bus in memory: the same promises as over NATS, for tests and for the whole loop in one process."""
