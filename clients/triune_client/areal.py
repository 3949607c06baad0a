"""AReaL (1.0): reward_fn="triune_client.areal.reward".

The row's columns say how to judge, as for TRL. AReaL has no place for an error: Unscorable and Unreachable are raised.
It makes a reward of 0 of a function that takes longer than 15 s (`AsyncRewardWrapper`), so Unreachable comes before.
"""

from typing import Any

from triune_client.client import default_client
from triune_client.samples import sample_of

LIMIT_S = 12.0


def reward(prompt: Any, completions: str, prompt_ids: Any = None, completion_ids: Any = None, **row: Any) -> float:
    """AReaL's reward of one completion."""
    return default_client().score(sample_of(completions, None, row), limit_s=LIMIT_S).final
