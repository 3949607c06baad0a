"""Patches of 8 bits and their levels are what the family's own image processor makes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import Glm4vImageProcessorPil, Qwen2VLImageProcessorPil

from shared.models.catalog import known_families

MADE: dict[str, tuple[Any, dict[str, Any]]] = {
    "qwen2_5_vl": (Qwen2VLImageProcessorPil, {}),
    "qwen3_vl": (Qwen2VLImageProcessorPil, {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5, 0.4, 0.3]}),
    "qwen2_vl": (Qwen2VLImageProcessorPil, {"do_normalize": False, "do_resize": False}),
    "glm4v": (Glm4vImageProcessorPil, {}),
}


@pytest.mark.parametrize("model_type", list(MADE))
def test_the_tower_gets_the_processors_own_values_bit_for_bit(model_type: str) -> None:
    make, options = MADE[model_type]
    family, processor = known_families()[model_type], make(**options)
    parts: Any = SimpleNamespace(image_processor=processor, image_token="x")
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((112, 448), (56, 84))]
    prepared = [family.prepare(image, parts, alone=False) for image in images]
    expected = processor(images=images, return_tensors="np")
    made = family.collate(prepared)
    assert made["pixel_values"].dtype == np.float32
    assert np.array_equal(made["pixel_values"], expected["pixel_values"])
    assert np.array_equal(made["image_grid_thw"], expected["image_grid_thw"])
    assert sum(image.nbytes for image in prepared) < made["pixel_values"].nbytes / 4  # 8 bits, and one frame of two
    assert [image.tokens for image in prepared] == [len(image.text) for image in prepared]
