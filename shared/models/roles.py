"""Which part of a model a parameter belongs to, by its name in memory or on disk."""

from typing import Literal

Role = Literal["vit", "connector", "llm"]
ROLES: tuple[Role, ...] = ("vit", "connector", "llm")

_TOWERS = ("visual", "vision_tower", "vision_model")
_CONNECTORS = ("multi_modal_projector", "connector", "image_newline")
_PREFIXES = {
    "model.language_model.": "model.",
    "model.text_model.": "model.",
    **{f"model.{part}": part for part in (*_TOWERS, *_CONNECTORS)},
}


def role_of(name: str) -> Role:
    """The role of a parameter: vision tower, connector between tower and language model, or language model.

    The connector of the Qwen-VL line and of GLM-4V is the tower's `merger`. With or without the `model.` that
    transformers 4.52 put before `visual` (which made V-Triune's rule take the tower for a part of the language model).
    """
    parts = name.split(".")
    if any(part in _CONNECTORS for part in parts):
        return "connector"
    for tower in _TOWERS:
        if tower in parts:
            inner = parts[parts.index(tower) + 1 :]
            return "connector" if tower == "visual" and inner and "merger" in inner[0] else "vit"
    return "llm"


def layer_of(name: str) -> str:
    """The layer a parameter is counted under, in the names of transformers 4.51 as V-Triune logs them.

    `model.visual.blocks.0.mlp.down_proj.weight` → `visual.blocks.0`, `model.visual.merger.ln_q.weight` →
    `visual.merger`, `model.language_model.layers.5.…` → `model.layers.5`, `lm_head.weight` → `lm_head.weight`;
    a list that stands deeper counts by its entries, too: `vision_tower.encoder.layers.3`.
    """
    for prefix, short in _PREFIXES.items():
        if name.startswith(prefix):
            name = short + name.removeprefix(prefix)
            break
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1 if numbers else 2])
