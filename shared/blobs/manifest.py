"""A version of the weights as a list of tensors: where the bits of each one lie, and their digest.

Bits are those of a safetensors file. Frozen tensors have a blob of their own, the same for every version; the trained
ones are raw in an anchor's blob, or deltas on the bits of the manifest's `base`, piece by piece.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from blake3 import blake3

from shared.errors import Corrupt
from shared.messages import BlobRef

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one number of each type, by its name in a safetensors header."""
PIECE = 4 * 1024 * 1024
"""Bytes of a tensor that are compressed together: bounds the memory of whoever encodes or decodes."""
PAGE = 4096
_LENGTH = 8
"""Bytes before a header that say how long it is."""


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """Name, type (as safetensors names it) and shape of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class TensorEntry(msgspec.Struct, frozen=True, array_like=True):
    """A tensor of a version: blake3 `digest` of its bits, and where they are.

    `raw`: `length` bytes at `offset` of blob number `blob`, an anchor's safetensors file. `delta`: `pieces` holds the
    length of the frame (`shared.blobs.deltas`) of each `PIECE` bytes, one after the other from `offset` on; 0 means
    that the piece is the base's.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str
    blob: int
    offset: int
    length: int
    encoding: Literal["raw", "delta"] = "raw"
    pieces: tuple[int, ...] = ()

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, self.shape)


class WeightsManifest(msgspec.Struct, frozen=True, kw_only=True, tag="manifest.v1"):
    """One version. `digest` is of its tensors alone: equal digests are equal weights, however they are encoded.

    `base` is the manifest whose bits the deltas are applied to; None: an anchor. `anchor` is a second manifest of
    the same bits without a base, where there is one.
    """

    version: int
    digest: str
    blobs: tuple[BlobRef, ...]
    frozen: tuple[TensorEntry, ...]
    trained: tuple[TensorEntry, ...]
    base: BlobRef | None = None
    anchor: BlobRef | None = None

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        return self.frozen + self.trained


def tensors_digest(tensors: Iterable[TensorEntry]) -> str:
    """blake3 of every (name, dtype, shape, digest), by name."""
    hasher = blake3()
    for one in sorted(tensors, key=lambda entry: entry.name):
        shape = ",".join(map(str, one.shape))
        hasher.update(f"{one.name}\0{one.dtype}\0{shape}\0{one.digest}\n".encode())
    return hasher.hexdigest()


def in_file_order(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Tensors as they lie in a file, else in the order that is given: those of whole pages first, which are written and
    read twice as fast from the start of one; then wide types first, so that all numbers are aligned.
    """
    for spec in specs:
        if spec.dtype not in ITEM_BYTES:
            raise Corrupt(f"tensor {spec.name!r} has type {spec.dtype!r}; expected one of {', '.join(ITEM_BYTES)}")
    return sorted(specs, key=lambda spec: (spec.nbytes % PAGE > 0, -ITEM_BYTES[spec.dtype]))


def file_header(specs: Sequence[TensorSpec]) -> tuple[bytes, dict[str, int]]:
    """The header of the safetensors file of `specs`, in file order, and where each tensor begins in the file.

    It fills whole pages: its rest are spaces.
    """
    begin, places = 0, {}
    fields: dict[str, object] = {}
    for spec in specs:
        fields[spec.name] = {
            "dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [begin, begin + spec.nbytes]
        }  # fmt: skip
        places[spec.name] = begin
        begin += spec.nbytes
    text = msgspec.json.encode(fields)
    text += b" " * (-(len(text) + _LENGTH) % PAGE)
    header = len(text).to_bytes(_LENGTH, "little") + text
    return header, {name: len(header) + place for name, place in places.items()}
