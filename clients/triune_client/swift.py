"""ms-swift (4.6): --external_plugins …/triune_client/swift.py --reward_funcs triune.

The data set's columns say how to judge, as for TRL. ms-swift makes a reward of 0 of `None` (it sums by
`nansum`), so a completion that cannot be scored is an exception here.
"""

from typing import Any

from swift.rewards import AsyncORM, orms

from triune_client.client import default_client
from triune_client.samples import rows_of, sample_of


class Triune(AsyncORM):
    """ms-swift's reward function; raises Unscorable and Unreachable."""

    async def __call__(self, completions: list[str], **columns: Any) -> "list[float]":
        rows = rows_of(columns, len(completions))
        samples = [sample_of(completion, None, row) for completion, row in zip(completions, rows, strict=True)]
        return [reward.final for reward in await default_client().scores_async(samples)]


orms["triune"] = Triune
