"""Where the learner stands: the one state that a restart continues from."""

import msgspec


class Progress(msgspec.Struct, kw_only=True):
    """The learner's place in a job after training step `step`; written as it is into every checkpoint.

    All else is the model, which lies beside it, and the log, which is read from here on.
    """

    step: int = 0
    cursor: int = 0
    """The first ordinal not consumed."""
    ahead: frozenset[int] = frozenset()
    """Ordinals above the cursor that are consumed: with `algorithm.order = "arrival"`."""
    windows: list[tuple[int, int]] = []
    """With that order: (end of a window, the last weights on which what it admits may be trained), rising ends."""
    offset: int = 1
    """The journal sequence of the first record that a replay from here needs."""
    told: int = 0
    """The newest sequence in the events: steps that were told behind it are replayed as they were told."""
    incarnation: int = 0
    stale_until: int = 0
    """Groups below this ordinal may be of an earlier incarnation, and get importance weights."""
    answered: int = 0
    """Requests for a checkpoint that were fulfilled."""
    journal_created: str = ""
    """The creation time of the journal's stream; another one is another journal."""

    def become(self, other: "Progress") -> None:
        """Continue from `other`."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(other, name))
