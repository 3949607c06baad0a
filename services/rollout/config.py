"""The rollout service's own settings; what a job decides is in the job file."""

import msgspec


class RolloutConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that hold for every job."""

    fetch_wait_s: float = 0.5
    """How long one look at the prompts lasts when there are none."""
    linger_s: float = 0.05
    """A batch that is not full waits so long for the next prompt, while the window admits one."""
    weights_limit_s: float = 60.0
    """How long the weights that a prompt asks for may take to be announced and to be found in the blob store."""
    hand_back_s: float = 1.0
    """A group whose image is not in the blob store is offered again so much later."""
    grace_s: float = 30.0
    """How long an engine may take to stop once it was told to; past it the process ends."""
