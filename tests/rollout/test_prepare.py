"""Prompts as the model sees them."""

import numpy as np
import pytest

from services.rollout.engine import PromptLimits
from services.rollout.engines.hf import HfEngine
from services.rollout.prepare import expand_placeholders, template_turn
from shared.errors import BadSample
from shared.messages import ChatTurn
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


def test_each_placeholder_becomes_as_many_tokens_as_its_image_has() -> None:
    assert expand_placeholders([1, 9, 2, 9, 3], 9, [2, 3]).tolist() == [1, 9, 9, 2, 9, 9, 9, 3]


def test_a_placeholder_that_was_typed_into_the_question_is_a_bad_sample(engine: HfEngine) -> None:
    with pytest.raises(BadSample, match="2 image placeholders for 1 images"):
        engine.prepare(make_prompt("<image>What is <|image_pad|>?"), [png(84, 84)])


@pytest.mark.parametrize(
    ("text", "images", "reason"),
    [
        ("<|video_pad|>How many?", 0, "holds a video placeholder"),
        ("<image>How many? <|vision_start|><|video_pad|><|vision_end|>", 1, "holds a video placeholder"),
        ("What is <|image_pad|>?", 0, "1 image placeholders for 0 images"),
        ("<image>How many?", 0, "1 image placeholders for 0 images"),
        ("How many?", 1, "0 image placeholders for 1 images"),
        ("<|image_pad|><|image_pad|>How many?", 2, "stand side by side"),
    ],
)
def test_placeholders_that_the_model_would_not_place_are_a_bad_sample(
    engine: HfEngine, text: str, images: int, reason: str
) -> None:
    with pytest.raises(BadSample, match=reason):
        engine.prepare(make_prompt(text), [png(84, 84)] * images)


def test_what_the_models_own_code_refuses_is_a_bad_sample_with_its_reason(engine: HfEngine) -> None:
    engine._tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadSample, match="can't be prepared: TemplateError: roles must alternate"):
        engine.prepare(make_prompt("How many?"), [])


def test_a_fault_of_the_machine_is_no_bad_sample(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(engine._preparer, "tokenize", out_of_memory)
    with pytest.raises(MemoryError):
        engine.prepare(make_prompt("How many?"), [])


def test_image_tokens_are_the_patches_merged_two_by_two(engine: HfEngine) -> None:
    """84 x 168 px: 6 x 12 patches of 14 px, 18 merged tokens; 3 x 2 x 14 x 14 numbers a patch."""
    prepared = engine.prepare(make_prompt(), [png(168, 84)])
    assert prepared.image_grid_thw == [(1, 6, 12)]
    assert prepared.pixel_values is not None and prepared.pixel_values.shape == (72, 1176)
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
    assert "Ünïcode 漢字 \N{GRINNING FACE}" in engine._tokenizer.decode(np.asarray(ids).tolist())
