"""A Qwen2.5-VL or Qwen3-VL of 0.6 million parameters in a plain Hugging Face folder, like any real model.

Sizes and initialisation were chosen by what learns in two minutes on one CPU core (docs/demo.md): larger ones learn
less in that time, because the number of optimizer steps decides.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
)
from transformers.utils import logging as transformers_logging

from triune.demo.tokenizer import (
    IMAGE_PLACEHOLDER,
    PADDING,
    TURN_END,
    VIDEO_PLACEHOLDER,
    VISION_END,
    VISION_START,
    train_tokenizer,
)

Family = Literal["qwen2_5_vl", "qwen3_vl"]
VOCAB_SIZE = 512
"""Rows of the embedding; the tokenizer fills most of them, the rest is padding as in the real models."""
WIDTH, LAYERS, HEADS, KV_HEADS, FEED_FORWARD = 96, 2, 4, 2, 192
VISION_WIDTH, VISION_FEED_FORWARD = 96, 128
INITIALIZER_RANGE = 0.08
"""Of all weights; with the library's 0.02 such a small model starts to learn much later."""
MIN_PIXELS, MAX_PIXELS = 56 * 56, 1280 * 28 * 28
"""What the image processor makes of an image at least and at most, as in the real models' configuration."""


def tiny_config(tokenizer: PreTrainedTokenizerFast, family: Family = "qwen2_5_vl") -> PretrainedConfig:
    """The configuration: two text layers and one vision block (full attention), patches of 14 px merged 2 x 2."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (PADDING, TURN_END)}
    head_dim = WIDTH // HEADS
    text: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "intermediate_size": FEED_FORWARD,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [head_dim // 6] * 3,  # the three together are half a head
        },
        "tie_word_embeddings": True,
        "initializer_range": INITIALIZER_RANGE,
        "bos_token_id": ids[PADDING],
        "eos_token_id": ids[TURN_END],
        "pad_token_id": ids[PADDING],
    }
    vision: dict[str, Any] = {
        "depth": 1,
        "hidden_size": VISION_WIDTH,
        "num_heads": HEADS,
        "intermediate_size": VISION_FEED_FORWARD,
        "out_hidden_size": WIDTH,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "initializer_range": INITIALIZER_RANGE,
    }
    if family == "qwen3_vl":
        text["head_dim"] = head_dim
        text["rope_parameters"]["mrope_interleaved"] = True
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    else:
        vision |= {"window_size": 112, "fullatt_block_indexes": [0]}
    return AutoConfig.for_model(
        family,
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER),
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_PLACEHOLDER),
        vision_start_token_id=tokenizer.convert_tokens_to_ids(VISION_START),
        vision_end_token_id=tokenizer.convert_tokens_to_ids(VISION_END),
        initializer_range=INITIALIZER_RANGE,
    )


def build_tiny_vlm(tokenizer: PreTrainedTokenizerFast, *, seed: int, family: Family = "qwen2_5_vl") -> Any:
    """The model in float32 with random weights from `seed` (the global generator is left as it was)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(tiny_config(tokenizer, family))
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    return model


def save_model(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write what `from_pretrained` needs into `folder`: weights, configurations, tokenizer, image processor."""
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)


def image_processor() -> Qwen2VLImageProcessorPil:
    """The image processor of the Qwen-VL line with this model's patch size and pixel range."""
    return Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS, patch_size=14, merge_size=2)


def make_tiny_vlm(folder: Path, texts: Iterable[str], *, seed: int = 0) -> Path:
    """A model folder with random weights and a tokenizer trained on `texts`; returns `folder`."""
    tokenizer = train_tokenizer(texts, vocab_size=VOCAB_SIZE)
    save_model(build_tiny_vlm(tokenizer, seed=seed), tokenizer, folder)
    return folder
