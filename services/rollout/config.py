"""The rollout service's own settings; what a job decides is in the job file."""

import msgspec


class RolloutConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that hold for every job."""

    fetch_wait_s: float = 0.5
    """How long one look at the prompts lasts when there are none."""
    count_s: float = 2.0
    """How often the replicas that share the work are counted."""
    weights_limit_s: float = 60.0
    """How long the weights that a prompt asks for may take to be announced, and then to be found in the blob store."""
    hand_back_s: float = 1.0
    """A group that was not generated in time is offered again so much later."""
    grace_s: float = 30.0
    """How long an engine may take to let go of a group that was cancelled; past it the process ends."""
