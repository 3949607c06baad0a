"""What every scored group must be when it arrives; one that is not is void, whoever made it."""

import math

import numpy as np

from shared.errors import BadSample
from shared.messages import Completion, Scored, unpack_floats


def check_group(scored: Scored) -> None:
    """Raises BadSample: other than n completions, version runs that do not sum to T, numbers that are not finite."""
    wanted, completions = scored.prompt.sampling.n, scored.group.completions
    if len(completions) != wanted:
        raise BadSample(f"the group has {len(completions)} completions; expected {wanted}")
    for index, completion in enumerate(completions):
        _check_completion(index, completion)
    for index, reward in enumerate(scored.rewards):
        if reward.ok and not math.isfinite(reward.final):
            raise BadSample(f"the reward of completion {index} is {reward.final}; expected a finite number")


def _check_completion(index: int, completion: Completion) -> None:
    if len(completion.token_ids) % 4 or len(completion.log_probs) != len(completion.token_ids):
        raise BadSample(
            f"completion {index} has {len(completion.token_ids)} bytes of tokens and {len(completion.log_probs)} of "
            f"log-probs; expected four bytes a token in both"
        )
    total = sum(tokens for _, tokens in completion.versions)
    versions = [version for version, _ in completion.versions]
    if total != completion.num_tokens or versions != sorted(versions) or min(versions, default=0) < 0:
        raise BadSample(
            f"completion {index} has {completion.num_tokens} tokens and version runs {completion.versions}; expected "
            f"rising versions whose runs sum to its tokens"
        )
    if any(tokens < 1 for _, tokens in completion.versions):
        raise BadSample(f"completion {index} has an empty version run: {completion.versions}")
    if not np.isfinite(unpack_floats(completion.log_probs)).all():
        raise BadSample(f"completion {index} has log-probs that are not finite")
