"""The learner's own settings; what a job decides is in the job file."""

import msgspec


class LearnerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that hold for every job."""

    fetch_records: int = 256
    """Journal records read at a time."""
    journal_share: float = 0.7
    """Share of the journal's bytes past which the learner checkpoints at the next step boundary."""
    kept_versions: int = 3
    """Versions whose weights stay beside those that something still needs."""
    rewrite_s: float = 10.0
    """How long after a checkpoint that could not be written the next one is tried."""
    last_checkpoint_s: float = 60.0
    """How long the last checkpoint is tried again, every `rewrite_s`, before the job fails (and can be resumed)."""
    device_limit_s: float = 600.0
    """How long the rollout replica may take, after its last group's deadline, to leave a device that it shares."""
