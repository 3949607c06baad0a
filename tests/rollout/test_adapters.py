"""Adapters in a version's files become the weights that a sampler runs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shared.models.hf.adapters import opened

BASE = {"a.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b.weight": torch.ones(2)}
ADAPTERS = {"a.lora_A.weight": torch.tensor([[10.0, 20.0]]), "a.lora_B.weight": torch.tensor([[1.0], [-1.0]])}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    save_file(BASE, tmp_path / "frozen.safetensors")
    save_file(ADAPTERS, tmp_path / "trained.safetensors")
    return [tmp_path / "frozen.safetensors", tmp_path / "trained.safetensors"]


def read(files: list[Path], changed: set[str]) -> dict[str, list]:
    with opened(files, changed) as tensors:
        assert all(stored.shape == tuple(stored.read().shape) for stored in tensors.values())
        return {name: stored.read().tolist() for name, stored in tensors.items()}


def test_a_layer_with_adapters_is_the_weight_and_their_product(files: list[Path]) -> None:
    """[[1, 2], [3, 4]] + [1, -1]ᵀ·[10, 20]."""
    assert read(files, {*BASE, *ADAPTERS}) == {"a.weight": [[11.0, 22.0], [-7.0, -16.0]], "b.weight": [1.0, 1.0]}


@pytest.mark.parametrize("changed", ["a.weight", "a.lora_A.weight", "a.lora_B.weight"])
def test_it_is_made_anew_when_any_of_the_three_has_changed(files: list[Path], changed: str) -> None:
    assert read(files, {changed}) == {"a.weight": [[11.0, 22.0], [-7.0, -16.0]]}


def test_what_has_not_changed_is_not_read(files: list[Path]) -> None:
    assert read(files, {"b.weight"}) == {"b.weight": [1.0, 1.0]}


def test_the_sum_is_made_in_float32_and_rounded_once(tmp_path: Path) -> None:
    """bfloat16's numbers beside 1 are 2⁻⁷ apart: 1 + 2·2⁻⁹ is half-way and becomes 1, 1 + 2·2⁻⁸ is one of them."""
    for size, expected in ((2.0**-9, 1.0), (2.0**-8, 1.0 + 2.0**-7)):
        tensors = {"a.weight": torch.ones(1, 1, dtype=torch.bfloat16), "a.lora_A.weight": torch.ones(2, 1)}
        save_file(tensors | {"a.lora_B.weight": torch.full((1, 2), size)}, tmp_path / "one.safetensors")
        assert read([tmp_path / "one.safetensors"], set(tensors)) == {"a.weight": [[expected]]}


def test_an_adapter_without_its_weight_stands_under_its_own_name(tmp_path: Path) -> None:
    save_file(ADAPTERS, tmp_path / "trained.safetensors")
    assert read([tmp_path / "trained.safetensors"], set(ADAPTERS)).keys() == ADAPTERS.keys()
