"""Groups as the rollout service publishes them."""

from shared.messages import (
    BlobRef,
    ChatTurn,
    Completed,
    Completion,
    ImageRef,
    Prompt,
    RewardSpec,
    Sampling,
    pack_floats,
    pack_ints,
)


def group(texts: list[str], *, ordinal: int = 0, reward: RewardSpec | None = None, kind: str = "train") -> Completed:
    """A group with one completion a text; by default mathverify against 4, on one 640 x 480 image seen at 308 x 224."""
    spec = reward or RewardSpec(verifier="mathverify", answer="4", ground_truth="\\boxed{4}", format_ratio=0.0)
    prompt = Prompt(
        job="job-1",
        kind=kind,
        ordinal=ordinal,
        source="mm_math",
        task="math",
        sample_id=f"sample-{ordinal}",
        turns=[ChatTurn(role="user", content="<image>how many?")],
        images=[ImageRef(blob=BlobRef(digest="0" * 64, size=1), width=640, height=480)],
        reward=spec,
        sampling=Sampling(n=len(texts), temperature=1.0, max_new_tokens=8, seed=0),
        version=3 if kind == "eval" else None,
    )
    return Completed(
        prompt=prompt,
        completions=[_completion(text) for text in texts],
        prompt_ids=pack_ints([1, 2]),
        image_grid_thw=[(1, 16, 22)],
        patch_size=14,
        replica="rollout-1",
        started_at=1.0,
        finished_at=2.0,
    )


def _completion(text: str) -> Completion:
    return Completion(
        token_ids=pack_ints([5, 6]), log_probs=pack_floats([-0.5, -0.1]), text=text, finish="stop", versions=[(0, 2)]
    )
