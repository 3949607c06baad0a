"""A tiny random model of every family, in a plain Hugging Face folder.

Weights are large enough that an image moves log-probs; the tokenizer is byte-level with the family's special tokens,
and the chat template writes an image as the family's own does.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

SCALE = 0.3
"""`initializer_range` of all weights."""
VOCAB = 320
PAD, START, END = "<pad>", "<|im_start|>", "<|im_end|>"
QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|box_start|>")
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": SCALE,
}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
SIGLIP = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": SCALE,
}

Ids = Callable[[str], int]


def _qwen2(ids: Ids, model_type: str) -> dict[str, Any]:
    vision = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "initializer_range": SCALE}
    if model_type == "qwen2_vl":
        vision |= {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32}
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
    return {"text_config": TEXT | {"rope_parameters": MROPE}, "vision_config": vision, **_qwen_ids(ids)}


def _qwen3(ids: Ids, model_type: str) -> dict[str, Any]:
    vision = {
        "depth": 3,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 24,
        "out_hidden_size": 32,
        "patch_size": 16,
        "num_position_embeddings": 64,
        "initializer_range": SCALE,
    }
    text = TEXT | {"head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}}
    if model_type == "qwen3_vl":
        vision["deepstack_visual_indexes"] = [0, 1]
    else:
        linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}
        text |= linear | {"linear_num_value_heads": 4, "head_dim": 16, "num_hidden_layers": 4}
        text["rope_parameters"] = {**text["rope_parameters"], "partial_rotary_factor": 0.5}
        # With weights as large as the others' its states make float32 itself inexact: 2e-4 from float64.
        text["initializer_range"] = SCALE / 3
    return {"text_config": text, "vision_config": vision, **_qwen_ids(ids)}


def _qwen_ids(ids: Ids) -> dict[str, Any]:
    return {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def _glm4v(ids: Ids, model_type: str) -> dict[str, Any]:
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 24,
        "out_hidden_size": 32,
        "image_size": 112,
        "initializer_range": SCALE,
    }
    return {
        "text_config": TEXT | {"rope_parameters": MROPE | {"mrope_section": [2, 1, 1]}},
        "vision_config": vision,
        "image_token_id": ids("<|image|>"),
        "video_token_id": ids("<|video|>"),
        "image_start_token_id": ids("<|begin_of_image|>"),
        "image_end_token_id": ids("<|end_of_image|>"),
        "video_start_token_id": ids("<|begin_of_video|>"),
        "video_end_token_id": ids("<|end_of_video|>"),
    }


def _smolvlm(ids: Ids, model_type: str) -> dict[str, Any]:
    return {
        "text_config": TEXT | {"model_type": "llama", "pad_token_id": ids(PAD)},
        "vision_config": SIGLIP | {"image_size": 32, "patch_size": 8},
        "scale_factor": 2,
        "image_token_id": ids("<image>"),
        "pad_token_id": ids(PAD),
    }


def _internvl(ids: Ids, model_type: str) -> dict[str, Any]:
    return {
        "text_config": TEXT | {"model_type": "qwen2"},
        "vision_config": SIGLIP | {"image_size": [32, 32], "patch_size": [8, 8]},
        "image_seq_length": 4,
        "image_token_id": ids("<IMG_CONTEXT>"),
        "tie_word_embeddings": False,
    }


def _gemma3(ids: Ids, model_type: str) -> dict[str, Any]:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return {
        "text_config": TEXT | {"head_dim": 8, "layer_types": kinds, "sliding_window": 8, "query_pre_attn_scalar": 8},
        "vision_config": SIGLIP | {"image_size": 32, "patch_size": 8, "vision_use_head": False},
        "mm_tokens_per_image": 4,
        "boi_token_index": ids("<start_of_image>"),
        "eoi_token_index": ids("<end_of_image>"),
        "image_token_index": ids("<image_soft_token>"),
        "initializer_range": SCALE,
    }


def _llava_onevision(ids: Ids, model_type: str) -> dict[str, Any]:
    vision = SIGLIP | {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, "vision_use_head": False}
    return {
        "text_config": TEXT | {"model_type": "qwen2"},
        "vision_config": vision,
        "image_token_index": ids("<image>"),
        "video_token_index": ids("<video>"),
        "image_grid_pinpoints": PINPOINTS,
        "vision_aspect_ratio": "anyres_max_9",
    }


def _mistral3(ids: Ids, model_type: str) -> dict[str, Any]:
    return {
        "text_config": TEXT | {"model_type": "mistral", "head_dim": 8, "sliding_window": None},
        "vision_config": SIGLIP | {"model_type": "pixtral", "image_size": 112, "patch_size": 14, "head_dim": 12},
        "spatial_merge_size": 2,
        "image_token_index": ids("[IMG]"),
        "tie_word_embeddings": False,
    }


PINPOINTS = [[32, 32], [32, 64], [64, 32], [64, 64]]
SMOL = ("<fake_token_around_image>", "<image>", "<global-img>", "<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>")
SMOL = (*SMOL, "<row_2_col_2>")
GLM = ("<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|video|>", "<|begin_of_video|>", "<|end_of_video|>")

GLM_SIZE = {"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 100}}
INTERN = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
GEMMA = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
SQUARE = {"size": {"height": 32, "width": 32}}
TILES = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
FAMILIES: Mapping[str, tuple[Callable[[Ids, str], dict[str, Any]], tuple[str, ...], str, str, dict[str, Any]]] = (
    MappingProxyType(
        {
            # configuration, special tokens, an image in the chat template, image processor and its arguments
            "qwen2_vl": (_qwen2, QWEN, QWEN_IMAGE, "Qwen2VL", {}),
            "qwen2_5_vl": (_qwen2, QWEN, QWEN_IMAGE, "Qwen2VL", {}),
            "qwen3_vl": (_qwen3, QWEN, QWEN_IMAGE, "Qwen2VL", {"patch_size": 16}),
            "qwen3_5": (_qwen3, QWEN, QWEN_IMAGE, "Qwen2VL", {"patch_size": 16}),
            "glm4v": (_glm4v, GLM, "<|begin_of_image|><|image|><|end_of_image|>", "Glm4v", GLM_SIZE),
            "smolvlm": (_smolvlm, SMOL, "<image>", "SmolVLM", TILES),
            "idefics3": (_smolvlm, SMOL, "<image>", "Idefics3", TILES),
            "internvl": (_internvl, INTERN, "<IMG_CONTEXT>\n", "GotOcr2", SQUARE | {"max_patches": 4}),
            "gemma3": (_gemma3, GEMMA, "<start_of_image>", "Gemma3", SQUARE),
            "llava_onevision": (
                _llava_onevision,
                ("<image>", "<video>"),
                "<image>\n",
                "LlavaOnevision",
                SQUARE | {"image_grid_pinpoints": PINPOINTS},
            ),
            "mistral3": (_mistral3, ("[IMG]", "[IMG_BREAK]", "[IMG_END]"), "[IMG]", "Pixtral", {"patch_size": 14}),
        }
    )
)


def tokenizer_of(model_type: str) -> PreTrainedTokenizerFast:
    """Bytes, and the family's special tokens."""
    _, marks, image, _, _ = FAMILIES[model_type]
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
        "{% if part.type == 'image' %}" + image + "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START, *marks],
        chat_template=template,
    )


def make(model_type: str, folder: Path, *, seed: int = 0) -> Path:
    """The model in `folder`, float32, drawn from `seed`."""
    configuration, _, _, processor, options = FAMILIES[model_type]
    tokenizer = tokenizer_of(model_type)

    def ids(token: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(token))

    config = transformers.AutoConfig.for_model(model_type, **configuration(ids, model_type))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(config)
        _spread(model)
    model.generation_config = GenerationConfig(eos_token_id=ids(END), pad_token_id=ids(PAD))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    getattr(transformers, f"{processor}ImageProcessorPil")(**options).save_pretrained(folder)
    return folder


def _spread(model: torch.nn.Module) -> None:
    """Parameters that transformers starts at 0 or 1 get values of their own, so that a lost one is noticed."""
    for parameter in model.parameters():
        if parameter.std() == 0 or parameter.numel() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
