"""Low-rank adapters as they are published, and the weights that they make of the model beneath them.

A version of a job with adapters holds the model beneath once, and for every layer that has adapters two float32
tensors: `<layer>.lora_A.weight` (r, inputs) and `<layer>.lora_B.weight` (outputs, r), the scale α/r in the latter.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

WEIGHT, DOWN, UP = ".weight", ".lora_A.weight", ".lora_B.weight"


def merged(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """W + B·A of `weight` (out, in), `down` A (r, in) and the scaled `up` B (out, r), rounded to the type of W."""
    return (weight.float() + up.float() @ down.float()).to(weight.dtype)


@dataclass(frozen=True)
class Stored:
    """A tensor of the plain model in a version's files: its shape, and `read`, which maps or makes it."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@contextlib.contextmanager
def opened(files: Sequence[Path], changed: Collection[str]) -> Iterator[dict[str, Stored]]:
    """The tensors of safetensors `files` that have `changed`, by name of the plain model, adapters merged.

    A weight is made anew from the one beneath when any of its three tensors has changed. An adapter without a weight
    stands under its own name.
    """
    with contextlib.ExitStack() as stack:
        where: dict[str, Any] = {}
        for path in reversed(files):
            file = stack.enter_context(safe_open(path, "pt"))
            where = dict.fromkeys(file.keys(), file) | where
            if where.keys() >= set(changed) and not any(name.endswith(UP) for name in where):
                break  # what is never trained need not be looked at; beneath adapters it is
        found = {}
        for name, file in where.items():
            parts = _parts(name, where)
            if name == parts[0] and any(part in changed for part in parts):
                found[name] = Stored(tuple(file.get_slice(name).get_shape()), _reader(parts, where))
        yield found


def _parts(name: str, where: Collection[str]) -> tuple[str, ...]:
    """The tensors that `name` is made of: itself, or the weight and its two adapters."""
    layer = name
    for ending in (DOWN, UP, WEIGHT):
        if name.endswith(ending):
            layer = name.removesuffix(ending)
            break
    parts = layer + WEIGHT, layer + DOWN, layer + UP
    return parts if all(part in where for part in parts) else (name,)


def _reader(parts: tuple[str, ...], where: dict[str, Any]) -> Callable[[], Tensor]:
    def read() -> Tensor:
        tensors = [where[part].get_tensor(part) for part in parts]
        return merged(*tensors) if len(tensors) > 1 else tensors[0]

    return read
