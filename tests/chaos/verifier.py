"""The verifier of the chaos jobs: a reward for any answer, and a sample that ends its worker every time."""

import hashlib
import os
import signal

from services.reward.verdict import Context, Verdict
from shared.messages import RewardSpec

POISON = "poison"
"""The ground truth of a sample that nobody can judge."""


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """One of sixteen rewards, by the completion's digest: a random model has something to learn from."""
    if spec.ground_truth == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    digest = hashlib.blake2b(completion.encode(), digest_size=1).digest()
    return Verdict(accuracy=(digest[0] % 16) / 15, format=0.0)
