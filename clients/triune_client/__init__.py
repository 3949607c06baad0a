"""Rewards from a Triune reward server."""

from triune_client.client import Client, Reward, RewardError, Unreachable, Unscorable, default_client

__all__ = ["Client", "Reward", "RewardError", "Unreachable", "Unscorable", "default_client"]
