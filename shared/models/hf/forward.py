"""Positions, image features and the plain forward pass of a loaded model, as its family says.

Letters: P tokens of a prompt, A axes of a position (3 with mRoPE, else 1), K image tokens, H the hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
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


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """What the tower and the connector make of one image.

    `pooled` (k, H), or (tiles, k / tiles, H) where the family's tower sees tiles: what replaces its k placeholders;
    `levels` (k, H) each, of DeepStack.
    """

    pooled: Tensor
    levels: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in (self.pooled, *self.levels))


def encode_images(
    model: Any, inputs: Inputs, images: Sequence[PreparedImage], device: torch.device
) -> list[EncodedImage]:
    """Every image (one or more) by the model's own tower; parts of what it makes of all."""
    output = model.model.get_image_features(**image_arguments(inputs, images, device))
    tokens = [image.tokens for image in images]
    pooled = output.pooler_output
    if isinstance(pooled, Tensor) and pooled.dim() == 3:
        pooled = pooled.split([count // pooled.shape[1] for count in tokens])
    elif isinstance(pooled, Tensor):
        pooled = pooled.split(tokens)
    levels = [_flat(level).split(tokens) for level in getattr(output, "deepstack_features", None) or ()]
    by_image = zip(*levels, strict=True) if levels else [()] * len(images)
    return [EncodedImage(one, tuple(own)) for one, own in zip(pooled, by_image, strict=True)]


def encoder_outputs(images: Sequence[EncodedImage]) -> dict[str, Any]:
    """The model's arguments for encoded images in the order of their placeholders; none without images."""
    if not images:
        return {}
    pooled: Any = [image.pooled for image in images]
    if images[0].pooled.dim() == 3:
        pooled = torch.cat(pooled)
    levels = [list(level) for level in zip(*(image.levels for image in images), strict=True)]
    return {"mm_encoder_outputs": {"image": SimpleNamespace(pooler_output=pooled, deepstack_features=levels)}}


def image_features(model: Any, inputs: Inputs, images: Sequence[PreparedImage], device: torch.device) -> list[Tensor]:
    """One (levels, k, H) tensor an image: what replaces its k placeholders, then DeepStack's levels if it has any."""
    encoded = encode_images(model, inputs, images, device)
    return [torch.stack([_flat(image.pooled), *image.levels]) for image in encoded]


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
