"""What a judge sees beside an answer: the question and its images."""

import asyncio
from collections.abc import Sequence

import msgspec

from services.reward.verdict import Sample
from shared.blobs.port import Blobs
from shared.messages import IMAGE_MARK, Completed, Prompt

JUDGE = "judge"


async def with_images(samples: Sequence[Sample], group: Completed, blobs: Blobs | None) -> list[Sample]:
    """The samples of a group, those for a judge with its question and images.

    Raises Unavailable when the blob store is away, BlobMissing (one of them) when an image is gone for good.
    """
    if not any(sample.spec.verifier == JUDGE for sample in samples):
        return list(samples)
    images: list[bytes] = []
    if blobs is not None:
        for image in group.prompt.images:
            images.append(await asyncio.to_thread(blobs.get, image.blob))
    question = question_of(group.prompt)
    return [msgspec.structs.replace(sample, question=question, images=images) for sample in samples]


def question_of(prompt: Prompt) -> str:
    """What the user asked, without placeholders of images."""
    turns = [turn.content for turn in prompt.turns if turn.role == "user"]
    return "\n\n".join(turns).replace(IMAGE_MARK, "").strip()
