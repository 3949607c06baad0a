"""Prompts and images for the rollout tests."""

import io

from PIL import Image

from services.rollout.engine import PromptLimits
from shared.messages import ChatTurn, Prompt, RewardSpec, Sampling

LIMITS = PromptLimits(min_image_pixels=0, max_image_pixels=2048 * 2048, max_prompt_tokens=512)


def png(width: int, height: int, shade: int = 0) -> bytes:
    """A grey gradient, shifted by `shade`."""
    image = Image.linear_gradient("L").resize((width, height)).point(lambda value: (value + shade) % 256)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def make_prompt(
    text: str = "<image>How many red circles are there?",
    *,
    ordinal: int = 0,
    n: int = 4,
    temperature: float = 1.0,
    top_p: float = 1.0,
    tokens: int = 12,
    seed: int = 7,
) -> Prompt:
    """A train prompt of one user turn."""
    return Prompt(
        job="job",
        kind="train",
        ordinal=ordinal,
        source="drawn",
        task="counting",
        sample_id=f"sample-{ordinal}",
        turns=[ChatTurn(role="user", content=text)],
        images=[],
        reward=RewardSpec(verifier="mathverify", answer="4", ground_truth="\\boxed{4}"),
        sampling=Sampling(n=n, temperature=temperature, max_new_tokens=tokens, seed=seed, top_p=top_p),
    )
