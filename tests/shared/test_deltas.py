"""The frame of a piece: what it makes of the old bits, whatever they are, and what of a torn one."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.blobs import deltas
from shared.blobs.deltas import apply, frame_of
from shared.errors import BlobMissing


def frame(after: bytes, before: bytes) -> bytes:
    """In blocks of 512 bytes."""
    starts = range(0, max(1, len(after)), 512)
    return frame_of(tuple(memoryview(bits)[start : start + 512] for bits in (after, before)) for start in starts)


def applied(before: bytes, change: bytes) -> bytes:
    bits = bytearray(before)
    apply(change, memoryview(bits))
    return bytes(bits)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(0, 3000), changes=st.integers(0, 3000))
def test_a_frame_makes_the_old_bits_to_the_new_ones(seed: int, length: int, changes: int) -> None:
    rng = random.Random(seed)
    before = rng.randbytes(length)
    after = bytearray(before)
    for _ in range(min(changes, length)):
        after[rng.randrange(length)] = rng.randrange(256)
    change = frame(bytes(after), before)
    assert (change == b"") == (after == before)
    if change:
        assert applied(before, change) == after


def test_few_changes_are_written_by_their_places_and_many_by_all_bytes() -> None:
    """8,192 random bytes of which 10 differ: no more than 10 places of 6 bytes and what a frame costs by itself."""
    before = random.Random(1).randbytes(8192)
    after = bytearray(before)
    for number in range(10):
        after[800 * number] ^= 1
    few, many = frame(bytes(after), before), frame(bytes(255 - byte for byte in before), before)
    assert len(few) < 10 * 6 + 32
    assert (few[0], many[0]) == (deltas._SPARSE, deltas._DENSE)


@pytest.mark.parametrize("harm", [b"", b"\x01", b"\x01\xff\xff\xff\xff", b"\x00\x00\x00\x00\x00"])
def test_a_torn_frame_is_a_missing_blob(harm: bytes) -> None:
    before = bytes(64)
    sound = frame(bytes([7, *before[1:]]), before)
    for torn in (harm, harm + sound[len(harm) :][:-2], sound[:-3]):
        with pytest.raises(BlobMissing, match="torn"):
            applied(before, torn)
