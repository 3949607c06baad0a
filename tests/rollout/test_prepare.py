"""Prompts as the model sees them."""

import re

import numpy as np
import pytest

from services.rollout.engine import PromptLimits
from services.rollout.engines.hf import HfEngine
from shared.errors import BadSample
from shared.messages import ChatTurn
from shared.models.inputs import Inputs, template_turn
from tests.rollout.helpers import make_prompt, png


def test_a_user_turn_is_split_at_its_images_and_empty_pieces_are_dropped() -> None:
    turn = ChatTurn(role="user", content="<image><image>Which is larger?")
    assert template_turn(turn) == {
        "role": "user",
        "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is larger?"}],
    }
    assert template_turn(ChatTurn(role="system", content="Be <image> brief.")) == {
        "role": "system",
        "content": "Be <image> brief.",
    }


@pytest.mark.parametrize(
    ("text", "images", "reason"),
    [
        ("<|video_pad|>How many?", 0, "a user turn holds '<|video_pad|>'"),
        ("<image>How many? <|vision_start|><|video_pad|><|vision_end|>", 1, "a user turn holds"),
        ("<image>What is <|image_pad|>?", 1, "a user turn holds '<|image_pad|>', which only an image may put"),
        ("What is <|image_pad|>?", 0, "a user turn holds"),
        ("<|image_pad|><|image_pad|>How many?", 2, "a user turn holds"),
        ("<image>How many?", 0, "1 image placeholders for 0 images"),
        ("How many?", 1, "0 image placeholders for 1 images"),
    ],
)
def test_placeholders_that_no_image_put_there_are_a_bad_sample(
    engine: HfEngine, text: str, images: int, reason: str
) -> None:
    with pytest.raises(BadSample, match=re.escape(reason)):
        engine.prepare(make_prompt(text), [png(84, 84)] * images)


def test_images_may_stand_side_by_side(engine: HfEngine) -> None:
    prepared = engine.prepare(make_prompt("<image><image>Which is larger?"), [png(84, 84), png(168, 84)])
    assert prepared.image_grid_thw == [(1, 6, 6), (1, 6, 12)]
    placeholders = prepared.ids == engine.inputs.image_token_id
    runs = np.flatnonzero(np.diff(np.concatenate([[0], placeholders, [0]])))
    assert np.diff(runs)[::2].tolist() == [9, 18]
    assert int((np.array(prepared.logical_ids) == engine.inputs.image_token_id).sum()) == 2


def test_what_the_models_own_code_refuses_is_a_bad_sample_with_its_reason(engine: HfEngine) -> None:
    engine.inputs.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadSample, match="can't be prepared: TemplateError: roles must alternate"):
        engine.prepare(make_prompt("How many?"), [])


def test_a_fault_of_the_machine_is_no_bad_sample(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Inputs, "_tokens", out_of_memory)
    with pytest.raises(MemoryError):
        engine.prepare(make_prompt("How many?"), [])


def test_image_tokens_are_the_patches_merged_two_by_two(engine: HfEngine) -> None:
    """84 x 168 px: 6 x 12 patches of 14 px, 18 merged tokens; 3 x 2 x 14 x 14 numbers a patch."""
    prepared = engine.prepare(make_prompt(), [png(168, 84)])
    assert prepared.image_grid_thw == [(1, 6, 12)]
    assert engine.inputs.family.collate(prepared.images)["pixel_values"].shape == (72, 1176)
    assert int((prepared.ids == engine.model.config.image_token_id).sum()) == 18


def test_a_prompt_past_the_limit_is_a_bad_sample(model_folder: object) -> None:
    limits = PromptLimits(min_image_pixels=0, max_image_pixels=10**6, max_prompt_tokens=20)
    engine = HfEngine.open(str(model_folder), dtype="float32", limits=limits)
    with pytest.raises(BadSample, match="max_prompt_tokens allows 20"):
        engine.prepare(make_prompt(), [png(84, 84)])


def test_the_jobs_pixel_bounds_hold(model_folder: object) -> None:
    limits = PromptLimits(min_image_pixels=0, max_image_pixels=84 * 84, max_prompt_tokens=512)
    engine = HfEngine.open(str(model_folder), dtype="float32", limits=limits)
    assert engine.prepare(make_prompt(), [png(336, 336)]).image_grid_thw == [(1, 6, 6)]


@pytest.mark.parametrize("data", [b"", b"not an image", png(84, 84)[:60]])
def test_an_undecodable_image_is_a_bad_sample(engine: HfEngine, data: bytes) -> None:
    with pytest.raises(BadSample):
        engine.prepare(make_prompt(), [data])


def test_any_text_survives_the_tokenizer(engine: HfEngine) -> None:
    ids = engine.prepare(make_prompt("Ünïcode 漢字 \N{GRINNING FACE}"), []).ids
    assert "Ünïcode 漢字 \N{GRINNING FACE}" in engine.inputs.tokenizer.decode(np.asarray(ids).tolist())
