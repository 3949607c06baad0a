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
    seal_limit_s: float = 60.0
    """How long data may take to seal the order at a stop."""
