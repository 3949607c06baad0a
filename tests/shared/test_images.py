"""Decoding and scaling of a sample's images; sizes are golden (recorded from V-Triune's loader) or worked by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from shared.errors import BadSample
from shared.samples.images import LIMIT_BYTES, decode_image, probe_image, process_image, scaled_size, skim_image, to_rgb

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


def turned(form: str, orientation: int) -> bytes:
    """An image 4 wide and 2 high, red in its stored upper left pixel block, with an EXIF orientation."""
    image, exif = Image.new("RGB", (40, 20)), Image.Exif()
    image.paste((255, 0, 0), (0, 0, 20, 10))
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, form, exif=exif, **({"quality": 100} if form in ("JPEG", "WEBP") else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [  # EXIF 2.32, 4.6.4 A: the stored 0th row and column are the visual top/bottom and left/right
        (1, (40, 20), (5, 5)),
        (2, (40, 20), (35, 5)),
        (3, (40, 20), (35, 15)),
        (4, (40, 20), (5, 15)),
        (5, (20, 40), (5, 5)),
        (6, (20, 40), (15, 5)),
        (7, (20, 40), (15, 35)),
        (8, (20, 40), (5, 35)),
    ],
)
def test_a_turned_image_is_made_upright_before_its_size_is_taken(
    form: str, orientation: int, size: tuple[int, int], red: tuple[int, int]
) -> None:
    data = turned(form, orientation)
    assert probe_image(data) == size
    image = decode_image(data, max_pixels=10_000)
    assert image.size == size
    red_value, green_value, _ = image.getpixel(red)  # type: ignore[misc]
    assert red_value > 200 and green_value < 60


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_torn_exif_block_leaves_the_image_as_it_is() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert probe_image(buffer.getvalue()) == decode_image(buffer.getvalue(), max_pixels=10_000).size == (40, 20)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("uint16", [0, 257, 32896, 65535], [0, 1, 128, 255]),  # v / 257
        ("float32", [0.0, 0.2, 0.6, 1.0], [0, 51, 153, 255]),  # v * 255
        ("float32", [0.0, 2.0, 128.0, 255.0], [0, 2, 128, 255]),
        ("float32", [-2.0, -1.0, 0.0, 3.0], [0, 51, 102, 255]),  # (v + 2) / 5 * 255
        ("int32", [0, 1, 2, 255], [0, 1, 2, 255]),
        ("int32", [1000, 1051, 1102, 1255], [0, 51, 102, 255]),
        ("float32", [300.0, 300.0, 300.0, 300.0], [0, 0, 0, 0]),
    ],
)
def test_deep_pixels_are_scaled_to_eight_bits(dtype: str, values: list[float], expected: list[int]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([values], dtype)).save(buffer, "TIFF")
    image = decode_image(buffer.getvalue(), max_pixels=100)
    assert [image.getpixel((column, 0)) for column in range(4)] == [(value,) * 3 for value in expected]


def test_sixteen_bit_png_keeps_its_grey_levels() -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    assert np.array_equal(np.asarray(decode_image(buffer.getvalue(), max_pixels=1000))[..., 0].ravel(), np.arange(256))


def test_pixels_that_are_no_numbers_are_a_bad_sample() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0.0, np.nan]], np.float32)).save(buffer, "TIFF")
    with pytest.raises(BadSample, match="no finite numbers"):
        decode_image(buffer.getvalue(), max_pixels=100)


@pytest.mark.parametrize(
    ("mode", "form"),
    [("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "GIF"), ("RGBA", "TIFF"), ("LA", "PNG"), ("LA", "TIFF"), ("P", "PNG")],
)
def test_what_is_transparent_lies_on_white(mode: str, form: str) -> None:
    """Black ink on a transparent ground whose hidden colour is black, too."""
    drawing = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (5, 5, 10, 10))
    drawing = drawing.quantize(4) if mode == "P" else drawing.convert(mode)
    buffer = io.BytesIO()
    drawing.save(buffer, form, **({"lossless": True} if form == "WEBP" else {}))
    image = decode_image(buffer.getvalue(), max_pixels=1000)
    assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((7, 7)) == (0, 0, 0)


def test_a_half_transparent_pixel_is_mixed_with_white() -> None:
    assert to_rgb(Image.new("RGBA", (1, 1), (0, 100, 200, 51))).getpixel((0, 0)) == (204, 224, 244)  # 1/5, 4/5 white


def test_a_colour_that_a_png_names_transparent_lies_on_white() -> None:
    buffer = io.BytesIO()
    Image.new("L", (2, 1)).save(buffer, "PNG", transparency=0)
    assert decode_image(buffer.getvalue(), max_pixels=100).getpixel((0, 0)) == (255, 255, 255)


def test_ink_colours_become_screen_colours_and_an_animation_its_first_frame() -> None:
    assert to_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).getpixel((0, 0)) == (255, 0, 0)
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), shade) for shade in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(buffer.getvalue(), max_pixels=100).getpixel((0, 0)) == (255, 0, 0)


def test_skimming_finds_a_torn_image_and_shows_the_same_picture_smaller() -> None:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((640, 480)).save(buffer, "JPEG", quality=95)
    image = skim_image(buffer.getvalue())
    assert image.size == (160, 120)  # a quarter: at an eighth a side would be 60
    small = decode_image(buffer.getvalue(), max_pixels=640 * 480).resize((160, 120), Image.Resampling.BOX)
    assert np.abs(np.asarray(image, np.int16) - np.asarray(small, np.int16)).mean() < 4
    with pytest.raises(BadSample, match="cannot be decoded"):
        skim_image(buffer.getvalue()[:-200])
    assert skim_image(turned("JPEG", 6)).size == (20, 40)
    assert skim_image(encoded((30, 20))).size == (30, 20)
