"""The part of a checkpoint that only training needs: `state-<rank>.safetensors`, whole tensors spread over the ranks.

Keys are `master/<parameter>` (its float32 value), `<moment>/<parameter>` (the optimizer's), and single names. Every
tensor is whole and in one of the files, so that any number of ranks can continue from what another number wrote.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shared.errors import Corrupt

_FILES = "state-*.safetensors"


def write_state(folder: Path, rank: int, tensors: Mapping[str, Tensor]) -> None:
    """Write this rank's share, down to the disk: another rank cannot flush it on a network's file system."""
    path = folder / f"state-{rank}.safetensors"
    save_file(dict(tensors), path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


class SavedState(Mapping[str, Tensor]):
    """What all ranks wrote, read tensor by tensor; raises Corrupt when a file cannot be read or there is none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, Any] = {}
        for path in sorted(folder.glob(_FILES)):
            try:
                file = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise Corrupt(f"checkpoint {folder} cannot be loaded: {path.name}: {error}") from error
            self._places |= dict.fromkeys(file.keys(), file)
        if not self._places:
            raise Corrupt(f"checkpoint {folder} cannot be loaded: it has no {_FILES}")

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self._places[name].get_tensor(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> "SavedState":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.clear()
