"""Decoding and scaling of a sample's images; sizes are golden (recorded from V-Triune's loader) or worked by hand."""

import io
import struct
import zlib

import pytest
from PIL import Image

from shared.errors import BadSample
from shared.samples.images import LIMIT_BYTES, decode_image, probe_image, process_image, scaled_size

V_TRIUNE = {"min_pixels": 512 * 512, "max_pixels": 2048 * 2048}


def encoded(size: tuple[int, int], mode: str = "RGB", form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form)
    return buffer.getvalue()


def declared_png(width: int, height: int) -> bytes:
    """A PNG whose header declares a size and whose data are missing."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT", b"IEND")
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [  # recorded from the original
        ("RGB", (252, 56), (1086, 241)),
        ("RGB", (511, 512), (511, 512)),
        ("RGBA", (799, 533), (799, 533)),
        ("RGB", (2049, 2048), (2048, 2047)),
        ("RGB", (6000, 500), (6000, 500)),
        ("1", (10, 10), (512, 512)),
        ("RGB", (3000, 87), (3006, 87)),
        ("RGB", (1, 5000), (7, 36203)),
    ],
)
def test_images_are_scaled_as_v_triune_does(mode: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = process_image(Image.new(mode, size), **V_TRIUNE)
    assert (image.size, image.mode) == (expected, "RGB")


def test_a_side_never_becomes_zero() -> None:
    assert scaled_size(1, 10_000, min_pixels=0, max_pixels=100) == (1, 1000)


def test_without_a_lower_bound_a_small_image_keeps_its_size() -> None:
    assert decode_image(encoded((84, 84)), max_pixels=784).size == (28, 28)
    assert decode_image(encoded((84, 84), "L"), max_pixels=10_000).mode == "RGB"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_usual_formats_are_read(form: str) -> None:
    assert probe_image(encoded((30, 20), form=form)) == (30, 20)
    assert decode_image(encoded((30, 20), form=form), max_pixels=1000).size == (30, 20)


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 10_000), (9_000, 8_000)], ids=str)
def test_a_declared_size_past_the_limit_is_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(BadSample, match="pixels"):
        probe_image(declared_png(*size))
    with pytest.raises(BadSample, match="pixels"):
        decode_image(declared_png(*size), max_pixels=10_000)


def test_the_limit_is_the_callers() -> None:
    with pytest.raises(BadSample, match="declares 84x84 pixels, 7056 in all; at most 7000"):
        probe_image(encoded((84, 84)), limit_pixels=7000)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no bytes"),
        (b"\x00\x01random", "none of the formats"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "none of the formats"),
        (bytes(LIMIT_BYTES + 1), "at most"),
        (encoded((1, 300)), "factor 200"),
    ],
)
def test_what_is_no_usable_image_is_a_bad_sample_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        probe_image(data)


def test_a_torn_image_is_a_bad_sample() -> None:
    whole = encoded((84, 84), form="JPEG")
    with pytest.raises(BadSample, match="cannot be decoded"):
        decode_image(whole[:-40], max_pixels=10_000)
