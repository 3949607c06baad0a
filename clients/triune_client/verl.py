"""verl (0.9): reward.custom_reward_function.path=pkg://triune_client.verl, .name=compute_score.

`reward_kwargs` may give `url`, `token` and a sample's fields (`verifier`, `params`, …). verl has no place for an error:
Unscorable and Unreachable end the step, unless `on_error` is a number to give instead of Unscorable.
"""

from typing import Any

from triune_client.client import Unscorable, client_of, default_client
from triune_client.samples import sample_of


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Any = None,
    *,
    url: str | None = None,
    token: str | None = None,
    on_error: float | None = None,
    **defaults: Any,
) -> dict[str, float]:
    """verl's reward of one row: `score` is the final reward, `acc` and `format` its parts."""
    client = default_client() if url is None else client_of(url, token)
    try:
        reward = client.score(sample_of(solution_str, ground_truth, extra_info, **defaults))
    except Unscorable:
        if on_error is None:
            raise
        return {"score": float(on_error), "acc": float(on_error), "format": float(on_error)}
    return {"score": reward.final, "acc": reward.accuracy, "format": reward.format}
