"""TRL (1.16): `GRPOTrainer(reward_funcs=triune_client.trl.reward)`, or `--reward_funcs triune_client.trl.reward`.

The data set's columns say how to judge: `ground_truth` or `solution` (or Orsta-Data's `reward_model`), `verifier`,
`params`.
"""

from typing import Any

from triune_client.client import default_client
from triune_client.samples import rows_of, sample_of


async def reward(completions: list[Any], **columns: Any) -> "list[float | None]":
    """One final reward a completion; None for one that cannot be scored, which TRL leaves out. Raises Unreachable."""
    rows = rows_of(columns, len(completions))
    samples = [sample_of(completion, None, row) for completion, row in zip(completions, rows, strict=True)]
    return await default_client().finals_async(samples)
