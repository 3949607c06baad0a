"""Everything on one machine: real NATS and Redis servers and the five services as child processes."""
