"""Sampler and learner compute the same numbers: log-probs of the hf rollout engine against the learner's."""

import io
from pathlib import Path

import blake3
import numpy as np
import pytest
import torch
from PIL import Image

from services.rollout.engine import PromptLimits
from services.rollout.engines.hf import HfEngine
from shared.jobs.document import parse_job
from shared.messages import (
    BlobRef,
    ChatTurn,
    Completed,
    ImageRef,
    Prompt,
    Reward,
    RewardSpec,
    Sampling,
    Scored,
    pack_ints,
)
from tests.published import weights_at
from triune.demo.tiny_vlm import make_tiny_vlm

SIZES = [(84, 84), (140, 56)]
TEXTS = ["<image>How many red circles are there?", "<image>Where?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vlm(tmp_path_factory.mktemp("tiny"), ["user", "assistant", *TEXTS] * 4, seed=1)


def prompts(temperature: float) -> list[tuple[Prompt, list[bytes]]]:
    random = np.random.default_rng(0)
    found = []
    for ordinal, ((width, height), text) in enumerate(zip(SIZES, TEXTS, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
        data = buffer.getvalue()
        blob = BlobRef(digest=blake3.blake3(data).hexdigest(), size=len(data))
        prompt = Prompt(
            job="job-1",
            kind="train",
            ordinal=ordinal,
            source="drawn",
            task="counting",
            sample_id=str(ordinal),
            turns=[ChatTurn(role="user", content=text)],
            images=[ImageRef(blob=blob, width=width, height=height)],
            reward=RewardSpec(verifier="mathverify", answer="1", ground_truth="1"),
            sampling=Sampling(n=4, temperature=temperature, max_new_tokens=24, seed=ordinal),
        )
        found.append((prompt, [data]))
    return found


def roll(rollout: HfEngine, temperature: float) -> list[tuple[Scored, list[bytes]]]:
    wanted = prompts(temperature)
    prepared = [rollout.prepare(prompt, images) for prompt, images in wanted]
    groups = []
    for index, completions in rollout.generate(prepared):
        prompt, images = wanted[index]
        group = Completed(
            prompt=prompt,
            completions=completions,
            prompt_ids=pack_ints(prepared[index].ids),
            image_grid_thw=prepared[index].image_grid_thw,
            patch_size=14,
            replica="r",
            started_at=0.0,
            finished_at=0.0,
        )
        rewards = [Reward(status="ok", final=float(row % 2)) for row in range(4)]
        groups.append((Scored(group=group, rewards=rewards, replica="w", started_at=0.0, finished_at=0.0), images))
    return groups


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_of_sampler_and_learner_agree_before_and_after_an_update(open_learner, folder, tmp_path, temperature):
    spec = {"total_steps": 2, "data": {"train": ["x"]}, "sampling": {"temperature": temperature}}
    spec |= {"model": str(folder), "optimizer": {"freeze": [], "learning_rate": 1e-3}}
    learner = open_learner(parse_job(spec))
    limits = PromptLimits(min_image_pixels=0, max_image_pixels=2048 * 2048, max_prompt_tokens=512)
    rollout = HfEngine.open(str(folder), dtype="float32", limits=limits)
    for step in (1, 2):
        groups = [learner.ingest(*group) for group in roll(rollout, temperature)]
        assert len(groups) == 2
        result = learner.step(groups, step)
        assert result.metrics["mismatch_max"] < 1e-4
        rollout.load(weights_at(tmp_path, step, learner.weights("trained")))


def test_a_sampler_makes_of_adapters_what_the_learner_has(open_learner, folder, tmp_path):
    """Published adapters over the model beneath give the greedy tokens of the merged checkpoint, and the same bits."""
    spec = {"total_steps": 3, "data": {"train": ["x"]}, "model": str(folder), "learner": {"lora_rank": 8}}
    learner = open_learner(parse_job(spec | {"optimizer": {"learning_rate": 1e-1}}))
    limits = PromptLimits(min_image_pixels=0, max_image_pixels=2048 * 2048, max_prompt_tokens=512)
    rollout = HfEngine.open(str(folder), dtype="float32", limits=limits)
    before = greedy(rollout)
    rollout.load(weights_at(tmp_path / "0", 0, learner.weights()))
    assert greedy(rollout) == before
    groups = [learner.ingest(*group) for group in roll(rollout, 1.0)]
    for step in (1, 2, 3):
        learner.step(groups, step)
        rollout.load(weights_at(tmp_path / str(step), step, learner.weights()))
    learner.save(tmp_path)
    merged = HfEngine.open(str(tmp_path / "model"), dtype="float32", limits=limits)
    assert greedy(rollout) == greedy(merged) != before
    theirs = merged.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in rollout.model.state_dict().items())
    again = [learner.ingest(*group) for group in roll(rollout, 1.0)]
    assert learner.step(again, 4).metrics["mismatch_max"] < 1e-4


def greedy(rollout: HfEngine) -> list[list[bytes]]:
    """The most probable tokens of every prompt."""
    return [[one.token_ids for one in group.group.completions] for group, _ in roll(rollout, 0.0)]
