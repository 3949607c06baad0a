"""Some training groups judged once more, by an independent verifier: `reward.audit`, `reward.audit_share`.

What it finds is the part `audit` of each reward, beside the accuracy that was trained on; it changes no reward, and an
audit that fails holds up nothing. Which groups are audited follows from the job and the ordinal.
"""

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from services.reward.scoring import Scorer
from services.reward.seen import with_images
from services.reward.verdict import Sample
from shared.blobs.port import Blobs
from shared.messages import Completed, Prompt, Reward

PART = "audit"


async def audited(
    samples: Sequence[Sample], rewards: Sequence[Reward], group: Completed, scorer: Scorer, blobs: Blobs | None
) -> list[Reward]:
    """The rewards, those of a group that is audited with the part `audit`: the other verifier's accuracy.

    Raises Unavailable when nobody can judge now.
    """
    options = group.prompt.reward.options
    verifier = options.get("audit")
    if not isinstance(verifier, str) or not verifier or not is_drawn(group.prompt, options.get("audit_share")):
        return list(rewards)
    others = [_by(verifier, sample) for sample in samples]
    found = await scorer.score(await with_images(others, group, blobs))
    return [_joined(reward, other) for reward, other in zip(rewards, found, strict=True)]


def is_drawn(prompt: Prompt, share: object) -> bool:
    """Whether a group is among the `share` of training groups that are audited."""
    if prompt.kind != "train" or not isinstance(share, (int, float)):
        return False
    digest = blake2b(f"{prompt.job}/audit/{prompt.ordinal}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


def _by(verifier: str, sample: Sample) -> Sample:
    spec = msgspec.structs.replace(sample.spec, verifier=verifier, params={}, accuracy_ratio=1.0, format_ratio=0.0)
    return msgspec.structs.replace(sample, spec=spec)


def _joined(reward: Reward, other: Reward) -> Reward:
    if not (reward.ok and other.ok):
        return reward
    return msgspec.structs.replace(reward, parts={**reward.parts, PART: other.accuracy})
