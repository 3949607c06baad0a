"""EasyR1: worker.reward.reward_function=…/triune_client/easyr1.py:compute_score.

`ground_truth` is a ground truth, or the JSON text of an object with the fields of a sample. EasyR1 has no place for an
error: Unscorable and Unreachable end the step.
"""

from typing import Any

from triune_client.client import default_client
from triune_client.samples import sample_of

REWARD_NAME = "triune"
REWARD_TYPE = "batch"


def compute_score(reward_inputs: list[dict[str, Any]], **defaults: Any) -> list[dict[str, float]]:
    """EasyR1's rewards of a batch."""
    client = default_client()
    asked = [client.submit(sample_of(row["response"], row["ground_truth"], **defaults)) for row in reward_inputs]
    rewards = [future.result() for future in asked]
    return [{"overall": one.final, "accuracy": one.accuracy, "format": one.format} for one in rewards]
