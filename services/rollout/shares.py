"""How much of a job's work one replica takes: a fair share of what is open, and never more than its engine can use."""

import math

from shared.bus.port import MAX_IN_HAND

_AHEAD = 2
"""Groups in hand for each that the engine generates: the next ones are prepared beside it."""


def fair_share(*, room: int, open_groups: int, replicas: int) -> int:
    """Groups that one of `replicas` may have in hand, of `open_groups` that are admitted and not answered.

    `room`: groups that its engine generates at once. All replicas together stay within what the bus lets be in hand,
    so that none of them starves another.
    """
    fair = math.ceil(open_groups / max(1, replicas))
    return max(1, min(_AHEAD * room, fair, MAX_IN_HAND // max(1, replicas)))
