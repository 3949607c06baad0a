"""Throughput and latency of the reward service, as JSON lines; `python -m bench.reward --help`."""
