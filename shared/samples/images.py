"""Images of a sample: looked at before they are decoded, decoded to RGB, scaled to the job's pixel bounds.

An image is hostile input: only the formats named here are tried (never one that starts another program), and its
declared size is checked before a single pixel is allocated.
"""

import io
import math
import struct
import zlib
from typing import Final

from PIL import Image

from shared.errors import BadSample

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
LIMIT_PIXELS: Final = 64_000_000
"""Declared pixels (width times height) past which an image is refused: 192 MB once it is RGB."""
LIMIT_BYTES: Final = 32 * 1024 * 1024
"""Encoded bytes past which an image is refused."""
LIMIT_ASPECT: Final = 200
"""Longer over shorter side; Qwen2-VL's processor refuses what lies above (transformers, `smart_resize`)."""

_DECODER_ERRORS: Final = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)


def probe_image(data: bytes, *, limit_pixels: int = LIMIT_PIXELS) -> tuple[int, int]:
    """Width and height that the header declares, in pixels; nothing is decoded.

    Raises BadSample: no bytes or more than `LIMIT_BYTES`, no known format, more than `limit_pixels`, or sides that
    differ by more than `LIMIT_ASPECT`.
    """
    with _open(data, limit_pixels) as image:
        return image.size


def decode_image(data: bytes, *, min_pixels: int = 0, max_pixels: int, limit_pixels: int = LIMIT_PIXELS) -> Image.Image:
    """The RGB image in `data`, scaled as `process_image` does; raises BadSample like `probe_image`, or if torn."""
    with _open(data, limit_pixels) as image:
        try:
            return process_image(image, min_pixels=min_pixels, max_pixels=max_pixels)
        except _DECODER_ERRORS as error:
            raise BadSample(f"the {image.format} image of {len(data)} bytes cannot be decoded: {error}") from error


def process_image(image: Image.Image, *, min_pixels: int, max_pixels: int) -> Image.Image:
    """`image` scaled to at most `max_pixels`, then to at least `min_pixels`, in RGB; the aspect ratio is kept.

    Source: V-Triune's loader (MiniMax-AI/One-RL-to-See-Them-All at 39bcf0d, 2048² and 512²), including that an image
    is scaled in its own mode and converted afterwards.
    """
    size = scaled_size(*image.size, min_pixels=min_pixels, max_pixels=max_pixels)
    scaled = image if size == image.size else image.resize(size)
    return scaled.convert("RGB")


def scaled_size(width: int, height: int, *, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size in pixels that `process_image` gives: both sides times the square root of the area's ratio, floored.

    Deviation: a side never becomes 0, where the original fails.
    """
    if width * height > max_pixels:
        width, height = _scale(width, height, max_pixels)
    if width * height < min_pixels:
        width, height = _scale(width, height, min_pixels)
    return width, height


def _scale(width: int, height: int, pixels: int) -> tuple[int, int]:
    factor = math.sqrt(pixels / (width * height))
    return max(1, int(width * factor)), max(1, int(height * factor))


def _open(data: bytes, limit_pixels: int) -> Image.Image:
    if not data:
        raise BadSample("the image has no bytes")
    if len(data) > LIMIT_BYTES:
        raise BadSample(f"the image has {len(data)} bytes; at most {LIMIT_BYTES} are read")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSample(f"the image declares too many pixels; at most {limit_pixels} are decoded: {error}") from error
    except _DECODER_ERRORS as error:
        raise BadSample(f"the image of {len(data)} bytes is in none of the formats {', '.join(FORMATS)}") from error
    _check_size(*image.size, limit_pixels)
    return image


def _check_size(width: int, height: int, limit_pixels: int) -> None:
    if width * height > limit_pixels:
        raise BadSample(
            f"the image declares {width}x{height} pixels, {width * height} in all; at most {limit_pixels} are decoded"
        )
    if min(width, height) < 1 or max(width, height) > LIMIT_ASPECT * min(width, height):
        raise BadSample(
            f"the image is {width}x{height} pixels; its sides may differ by a factor {LIMIT_ASPECT} at most"
        )
