"""The bus as services see it (`port`), in memory for tests, and over NATS JetStream."""
