"""Messages of a run, made by hand."""

from collections.abc import Sequence

from shared.bus.port import JournalEntry
from shared.messages import (
    ChatTurn,
    Completed,
    Completion,
    EvalDone,
    ImageRef,
    Kind,
    Message,
    Portion,
    Prompt,
    Reward,
    RewardSpec,
    Sampling,
    Scored,
    StepDone,
    Voided,
    pack_floats,
    pack_ints,
)

JOB = "demo-00000000"


def group(
    ordinal: int,
    rewards: Sequence[float | None] = (1.0, 0.0),
    *,
    source: str = "sums",
    task: str = "math",
    kind: Kind = "train",
    version: int | None = None,
    texts: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
    weights: int = 0,
    spec: RewardSpec | None = None,
    parts: Sequence[dict[str, float]] | None = None,
    image: ImageRef | None = None,
) -> Scored:
    """A scored group; a reward of None is a verifier error. It took 2 s to generate, from second 10 + ordinal."""
    texts = texts or ["4"] * len(rewards)
    lengths = lengths or [3] * len(rewards)
    prompt = Prompt(
        job=JOB,
        kind=kind,
        ordinal=ordinal,
        source=source,
        task=task,
        sample_id=f"{source}-{ordinal}",
        turns=[ChatTurn(role="user", content="2 + 2?")],
        images=[image] if image else [],
        reward=spec or RewardSpec(verifier="mathverify", answer="4", ground_truth="\\boxed{4}"),
        sampling=Sampling(n=len(rewards), temperature=1.0, max_new_tokens=8, seed=0),
        version=version,
        published_at=9.0 + ordinal,
    )
    completions = [
        Completion(
            token_ids=pack_ints(list(range(length))),
            log_probs=pack_floats([-0.5] * length),
            text=text,
            finish="length" if length == 8 else "stop",
            versions=[(weights, length)],
        )
        for text, length in zip(texts, lengths, strict=True)
    ]
    completed = Completed(
        prompt=prompt,
        completions=completions,
        prompt_ids=pack_ints([1, 2, 3, 4]),
        image_grid_thw=[(1, 10, 20)] if image else [],
        patch_size=14,
        replica="rollout-a",
        started_at=10.0 + ordinal,
        finished_at=12.0 + ordinal,
    )
    verdicts = [
        Reward(status="verifier-error", error="it broke")
        if reward is None
        else Reward(status="ok", final=reward, accuracy=reward, format=1.0, parts=(parts or [{}] * len(rewards))[index])
        for index, reward in enumerate(rewards)
    ]
    return Scored(
        group=completed, rewards=verdicts, replica="reward-a", started_at=12.5 + ordinal, finished_at=13.0 + ordinal
    )


def void(
    ordinal: int, reason: str = "bad-sample", *, stage: str = "data", kind: Kind = "train", version: int | None = None
) -> Voided:
    return Voided(
        job=JOB,
        kind=kind,
        ordinal=ordinal,
        source="sums",
        task="math",
        reason=reason,
        detail=f"it is {reason}",
        stage=stage,
        version=version,
    )


def step_done(
    step: int, trained: Sequence[int], voided: Sequence[int] = (), *, stale: int = 0, portions: Sequence[Portion] = ()
) -> StepDone:
    """A step of groups of two completions that ended at second 100 · step and computed for 1 s."""
    return StepDone(
        job=JOB,
        step=step,
        incarnation=0,
        trained=list(trained),
        voided=list(voided),
        staleness=[stale] * len(trained),
        metrics={"grad_norm": 0.5, "bad": float("nan")},
        advantages={ordinal: [1.0, float("nan")] for ordinal in trained},
        timing={"wait_s": 0.25, "step_s": 1.0, "store_s": 0.125},
        finished_at=100.0 * step,
        portions=list(portions),
    )


def eval_done(version: int, total: int, void: int = 0) -> EvalDone:
    return EvalDone(job=JOB, version=version, total=total, void=void)


def entries(*messages: Message, first: int = 1) -> list[JournalEntry]:
    """Journal records with sequences from `first` on."""
    return [JournalEntry(first + index, message) for index, message in enumerate(messages)]  # type: ignore[arg-type]
