"""Positions, image features and the plain forward pass of a loaded model, as its family says.

Letters: P tokens of a prompt, A axes of a position (3 with mRoPE, else 1), K image tokens, H the hidden size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForImageTextToText

from shared.models.family import PreparedImage
from shared.models.inputs import Inputs

Positions = Callable[[NDArray[np.integer], Sequence[PreparedImage]], NDArray[np.int64]]
"""Positions (A, P) of a prompt's `ids` (P,) with its images; a text after it goes on at the largest one plus 1."""


def positions_of(inputs: Inputs, model: Any = None) -> Positions:
    """The family's rule of positions; without a loaded `model` it comes from a skeleton that holds no weights."""
    if not inputs.family.mrope:
        return lambda ids, images: np.arange(len(ids), dtype=np.int64)[None]
    if model is None:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(inputs.parts.config)
    rule = model.model.get_rope_index

    def positions(ids: NDArray[np.integer], images: Sequence[PreparedImage]) -> NDArray[np.int64]:
        places, _ = rule(
            torch.from_numpy(np.asarray(ids, dtype=np.int64))[None],
            mm_token_type_ids=torch.from_numpy(inputs.kinds(ids))[None],
            image_grid_thw=torch.tensor([image.grid for image in images]) if images else None,
        )
        result: NDArray[np.int64] = places[:, 0].numpy()
        return result

    return positions


def has_windows(config: Any) -> bool:
    """Whether some layers of the language model see a window of the last tokens only."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    return "sliding_attention" in kinds if kinds else getattr(text, "sliding_window", None) is not None


def position_ids(positions: Tensor) -> Tensor:
    """(A, B, L) as the language model takes them: (3, B, L) with mRoPE, else (B, L)."""
    return positions if len(positions) > 1 else positions[0]


def image_arguments(inputs: Inputs, images: Sequence[PreparedImage], device: torch.device) -> dict[str, Any]:
    """The model's arguments for `images` in the order of their placeholders; none without images."""
    made = inputs.family.collate(images) if images else {}
    return {name: _on(device, value) for name, value in made.items()}


def image_features(model: Any, inputs: Inputs, images: Sequence[PreparedImage], device: torch.device) -> list[Tensor]:
    """One (levels, k, H) tensor an image: what replaces its k placeholders, then DeepStack's levels if it has any."""
    output = model.model.get_image_features(**image_arguments(inputs, images, device))
    levels = [_flat(output.pooler_output), *map(_flat, getattr(output, "deepstack_features", None) or ())]
    return list(torch.stack(levels).split([image.tokens for image in images], dim=1))


def plain_arguments(
    inputs: Inputs, ids: NDArray[np.integer], images: Sequence[PreparedImage], device: torch.device
) -> dict[str, Any]:
    """The arguments of the model's own forward pass over one sequence `ids` (P,), positions and masks left to it."""
    tokens = np.asarray(ids, dtype=np.int64)[None]
    arguments: dict[str, Any] = {"input_ids": torch.from_numpy(tokens).to(device)}
    if inputs.family.kinds_argument:
        arguments[inputs.family.kinds_argument] = torch.from_numpy(inputs.kinds(tokens)).to(device)
    return arguments | image_arguments(inputs, images, device)


def _flat(features: Any) -> Tensor:
    """(K, H) of a list with one tensor an image, or of a tensor (tiles, k, H)."""
    return features.flatten(0, -2) if isinstance(features, Tensor) else torch.cat(list(features))


def _on(device: torch.device, value: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(value)).to(device) if isinstance(value, np.ndarray) else value
