"""Tiny models that vLLM's attention on a CPU can run: a head of 32 numbers, where the demo's has 24."""

from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from triune.demo.tiny_vlm import VOCAB_SIZE, save_model, tiny_config
from triune.demo.tokenizer import train_tokenizer

WIDTH = 128


def make_qwen2_5_vl(folder: Path, texts: list[str], *, seed: int = 1) -> Path:
    """The demo's model, 128 wide instead of 96: 4 heads of 32."""
    tokenizer = train_tokenizer(texts, vocab_size=VOCAB_SIZE)
    config = tiny_config(tokenizer).to_dict()
    config["text_config"] |= {"hidden_size": WIDTH}
    config["text_config"]["rope_parameters"]["mrope_section"] = [4, 6, 6]
    config["vision_config"] |= {"out_hidden_size": WIDTH}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=False)
    save_model(model, tokenizer, folder)
    return folder
