"""The only modules that know NATS."""
