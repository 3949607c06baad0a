"""The tiny model is a plain Hugging Face folder."""

from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from shared.models.hf.loading import open_inputs
from triune.demo.tiny_vlm import VOCAB_SIZE, build_tiny_vlm, make_tiny_vlm
from triune.demo.tokenizer import ANSWER_PIECES, SPECIAL_TOKENS, train_tokenizer

TEXTS = ["user", "assistant", "How many red circles are there?", "red 3 green 5"] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vlm(tmp_path_factory.mktemp("tiny"), TEXTS, seed=3)


def test_the_auto_classes_load_it(folder: Path) -> None:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert sum(weight.numel() for weight in model.parameters()) < 600_000
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    made = processor(images=[Image.new("RGB", (84, 84))], return_tensors="pt")
    assert made["image_grid_thw"].tolist() == [[1, 6, 6]]


def test_it_names_its_end_tokens_and_bans_the_other_special_ones(folder: Path) -> None:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert sorted(model.generation_config.eos_token_id) == sorted(ends)
    banned = open_inputs(folder).banned
    others = set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))) - set(ends)
    assert set(banned) == others | set(range(len(tokenizer), VOCAB_SIZE))


def test_the_chat_template_puts_an_image_between_its_marks(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    content = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    assert tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_every_piece_of_an_answer_is_one_token_that_decoding_keeps(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for piece in ANSWER_PIECES:
        ids = tokenizer(piece)["input_ids"]
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == piece


@pytest.mark.parametrize(
    "text",
    [
        "Ünïcode 漢字 \N{GRINNING FACE}\r\n\ttabs",
        '<think>\n1 2\n</think>\n<answer>\n[{"bbox_2d": [0, 14, 28, 42], "label": "red cross"}]\n</answer>',
    ],
)
def test_any_text_comes_back_as_it_was(folder: Path, text: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_tokens_of_their_own(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert [tokenizer.decode([token]) for token in tokenizer("1234")["input_ids"]] == ["1", "2", "3", "4"]


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=VOCAB_SIZE)
    state = torch.get_rng_state()
    one, same, other = (build_tiny_vlm(tokenizer, seed=seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
