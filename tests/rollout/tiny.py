"""Tiny models that vLLM's attention on a CPU can run: heads of 32 numbers, where the demo's have 24."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models import tiny
from triune.demo import tiny_vlm

WIDTH = 128
MROPE = [4, 6, 6]
"""The axes' shares of half a head."""

MakeConfig = Callable[..., Any]


def wider(make_config: MakeConfig) -> MakeConfig:
    """The same configuration 128 wide: four heads of 32."""

    def made(tokenizer: Any, family: str = "qwen2_5_vl") -> Any:
        narrow = make_config(tokenizer, family)
        config = narrow.to_dict()
        config["text_config"] |= {"hidden_size": WIDTH} | ({"head_dim": 32} if family == "qwen3_vl" else {})
        config["text_config"]["rope_parameters"]["mrope_section"] = MROPE
        config["vision_config"] |= {"out_hidden_size": WIDTH}
        return type(narrow)(**config)

    return made


def make_wide_vlm(folder: Path, texts: list[str]) -> Path:
    """A model folder with random weights, like the demo's."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiny_vlm, "tiny_config", wider(tiny_vlm.tiny_config))
        return tiny_vlm.make_tiny_vlm(folder, texts, seed=1)


def make_wide_qwen3_vl(folder: Path) -> Path:
    """The families' Qwen3-VL (DeepStack, interleaved positions) with heads of 32 numbers instead of 8."""
    make_config, *rest = tiny.FAMILIES["qwen3_vl"]

    def made(ids: Any, model_type: str) -> dict[str, Any]:
        config = make_config(ids, model_type)
        config["text_config"] |= {"head_dim": 32}
        config["text_config"]["rope_parameters"] |= {"mrope_section": MROPE}
        return config

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiny, "FAMILIES", {**tiny.FAMILIES, "qwen3_vl": (made, *rest)})
        return tiny.make("qwen3_vl", folder, seed=1)
