"""How much one replica takes, by hand."""

import pytest

from services.rollout.shares import fair_share
from shared.bus.port import MAX_IN_HAND


@pytest.mark.parametrize(
    ("room", "open_groups", "replicas", "share"),
    [
        (32, 32, 1, 32),  # all that the window admits
        (32, 32, 2, 16),
        (32, 33, 2, 17),
        (4, 1000, 1, 8),  # twice what the engine generates at once
        (4, 0, 3, 1),  # before anything is known, and when others hold all
        (256, 10**6, 17, 240),  # 17 replicas of 240 stay within the 4,096 that may be in hand
    ],
)
def test_a_replica_takes_a_fair_share_and_no_more_than_it_can_use(
    room: int, open_groups: int, replicas: int, share: int
) -> None:
    assert fair_share(room=room, open_groups=open_groups, replicas=replicas) == share
    assert replicas * share <= max(MAX_IN_HAND, replicas)
