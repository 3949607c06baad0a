"""The model of the comparison: the demo's Qwen2.5-VL made deeper and wider, 1.9 million parameters."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

from triune.demo.tiny_vlm import VOCAB_SIZE, save_model, tiny_config
from triune.demo.tokenizer import train_tokenizer

WIDTH, TEXT_LAYERS, VISION_LAYERS = 128, 4, 2


def make_model(folder: Path, texts: Sequence[str]) -> Path:
    """A model folder with random weights and a tokenizer trained on `texts`; returns `folder`."""
    tokenizer = train_tokenizer(texts, vocab_size=VOCAB_SIZE)
    config = tiny_config(tokenizer)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.num_hidden_layers, text.intermediate_size = WIDTH, TEXT_LAYERS, 4 * WIDTH
    text.layer_types = ["full_attention"] * TEXT_LAYERS
    text.rope_parameters["mrope_section"] = [6, 5, 5]  # together half a head
    vision.hidden_size = vision.out_hidden_size = WIDTH
    vision.depth, vision.intermediate_size = VISION_LAYERS, 2 * WIDTH
    vision.fullatt_block_indexes = list(range(VISION_LAYERS))
    torch.manual_seed(0)
    save_model(AutoModelForImageTextToText.from_config(config), tokenizer, folder)
    return folder
