"""The supervised steps see what the services will show, learn, and are repeatable."""

import dataclasses
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from services.rollout.engine import PromptLimits
from services.rollout.engines.hf import HfEngine
from shared.messages import ChatTurn, Prompt, RewardSpec, Sampling
from triune.demo.dataset import png
from triune.demo.supervised import Batches, answer_loss, batch_images, patches
from triune.demo.tasks import TASKS, demonstration
from triune.demo.tiny_vlm import VOCAB_SIZE, build_tiny_vlm, image_processor
from triune.demo.tokenizer import train_tokenizer
from triune.demo.warm_start import Recipe, Stage, fingerprint, train, warm_start

SHORT = Recipe(
    clean=Stage(steps=3, learning_rate=1e-3, wrong_share=0.0),
    mixed=Stage(steps=2, learning_rate=5e-4, wrong_share=0.6, warmup_steps=0),
    tokenizer_samples=200,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return warm_start(tmp_path_factory.mktemp("warm"), recipe=SHORT)


def test_it_is_made_once_and_the_same_again(folder: Path, tmp_path: Path) -> None:
    made_at = folder.stat().st_mtime_ns
    assert warm_start(folder.parent, recipe=SHORT) == folder
    assert folder.stat().st_mtime_ns == made_at
    again = warm_start(tmp_path, recipe=SHORT)
    weights, same = (load_file(one / "model.safetensors") for one in (folder, again))
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_another_recipe_has_another_folder() -> None:
    assert fingerprint(SHORT) == fingerprint(dataclasses.replace(SHORT))
    assert fingerprint(SHORT) != fingerprint(dataclasses.replace(SHORT, seed=1))


def test_patches_are_what_the_image_processor_makes() -> None:
    rng = Random(1)
    images = [TASKS[task](rng).image for task in TASKS]
    expected = image_processor()(images=images, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(patches(images), expected, atol=1e-6)


def test_prompts_are_those_that_the_rollout_service_makes(folder: Path) -> None:
    engine = HfEngine.open(str(folder), dtype="float32", limits=PromptLimits(0, 10**6, 512))
    batches = Batches(engine.inputs.tokenizer, SHORT.task_weights, seed=0)
    for task, draw in TASKS.items():
        drawn = draw(Random(2))
        prompt = Prompt(
            job="job", kind="train", ordinal=0, source="drawn", task=task, sample_id="",
            turns=[ChatTurn(role="user", content=f"<image>{drawn.question}")], images=[],
            reward=RewardSpec(verifier="mathverify", answer="", ground_truth=""),
            sampling=Sampling(n=1, temperature=0.0, max_new_tokens=1, seed=0),
        )  # fmt: skip
        prepared = engine.prepare(prompt, [png(drawn)])
        assert prepared.ids.tolist() == engine.inputs.tokenizer(batches.prompt(drawn.question))["input_ids"]
        made = engine.inputs.family.collate(prepared.images)["pixel_values"]
        np.testing.assert_allclose(made, patches([drawn.image]), atol=1e-6)


def test_images_attended_together_give_the_loss_of_images_attended_one_by_one() -> None:
    tokenizer = train_tokenizer(["user", "assistant"] * 4, vocab_size=VOCAB_SIZE)
    model, batches = build_tiny_vlm(tokenizer, seed=0), Batches(tokenizer, SHORT.task_weights, seed=0)
    batch = batches.draw(Random(3), 6, 0.5)
    alone = answer_loss(model, batch, batches.grid)
    batch_images(model)
    torch.testing.assert_close(answer_loss(model, batch, batches.grid), alone, atol=1e-5, rtol=1e-5)


def test_the_loss_covers_the_answer_and_its_end_alone() -> None:
    tokenizer = train_tokenizer(["user", "assistant"] * 4, vocab_size=VOCAB_SIZE)
    batches, drawn = Batches(tokenizer, SHORT.task_weights, seed=0), TASKS["math"](Random(4))
    batch = batches.batch([drawn], [demonstration(drawn, wrong=False) + "<|im_end|>"])
    assert tokenizer.decode(batch.ids[0][batch.answer[0]]) == demonstration(drawn, wrong=False) + "<|im_end|>"
    assert tokenizer.decode(batch.ids[0][~batch.answer[0]]) == batches.prompt(drawn.question)


def test_steps_learn() -> None:
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(["user", "assistant"] * 4, vocab_size=VOCAB_SIZE)
    model, batches = build_tiny_vlm(tokenizer, seed=0), Batches(tokenizer, SHORT.task_weights, seed=0)
    losses = list(train(model, batches, Stage(steps=30, learning_rate=1e-3, wrong_share=0.0, warmup_steps=5), SHORT))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
