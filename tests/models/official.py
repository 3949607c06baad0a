"""A tiny model's folder as its makers would publish it: with the files of transformers' own processor."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import transformers
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

OWN_TOKENS: Mapping[str, dict[str, str]] = MappingProxyType(
    {
        "gemma3": {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
        "internvl": {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    }
)
"""Tokens that a processor asks its tokenizer for by a name of their own."""
ARGUMENTS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "smolvlm": {"image_seq_len": 4},
        "idefics3": {"image_seq_len": 4},
        "internvl": {"image_seq_length": 4},
        "gemma3": {"image_seq_length": 4},
        "llava_onevision": {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        "mistral3": {"patch_size": 14, "spatial_merge_size": 2},
    }
)
"""What follows from the sizes of `tiny`'s models."""


def publish(folder: Path, model_type: str) -> None:
    """Save the official processor beside the model that `tiny.make` has put into `folder`; needs torchvision."""
    kind = getattr(transformers, PROCESSOR_MAPPING_NAMES[model_type])
    tokens = {"extra_special_tokens": OWN_TOKENS[model_type]} if model_type in OWN_TOKENS else {}
    tokenizer = AutoTokenizer.from_pretrained(folder, **tokens)
    parts: dict[str, Any] = {
        "image_processor": AutoImageProcessor.from_pretrained(folder, backend="pil"),
        "tokenizer": tokenizer,
        "chat_template": tokenizer.chat_template,
    }
    if "video_processor" in inspect.signature(kind.__init__).parameters:
        video = VIDEO_PROCESSOR_MAPPING_NAMES.get(model_type) or "Qwen2VLVideoProcessor"
        name = video if isinstance(video, str) else next(iter(video.values()))
        parts["video_processor"] = getattr(transformers, name)()
    kind(**parts, **ARGUMENTS.get(model_type, {})).save_pretrained(folder)
