"""Images of a sample: looked at before they are decoded, decoded to the RGB a model must see, scaled to pixel bounds.

An image is hostile input: only the formats named here are tried (never one that starts another program), and its
declared size is checked before a single pixel is allocated. What a viewer shows is what a model sees:

- The orientation that a camera wrote is applied, and width and height are those of the upright image.
- What is transparent lies on white. (Without that the hidden colour shows, mostly black: black text on black.)
- 16-bit and floating-point pixels are scaled to 8 bits. (Without that everything above 255 is white.)
- Of an animation the first frame counts.

Deviation: V-Triune converts with `Image.convert("RGB")` alone, which does none of this.
"""

import base64
import io
import math
import struct
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from shared.errors import BadSample

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The decoders that are used; docs/data.md names them."""
LIMIT_PIXELS: Final = 64_000_000
"""Declared pixels (width times height) past which an image is refused: 192 MB once it is RGB."""
LIMIT_BYTES: Final = 32 * 1024 * 1024
"""Encoded bytes past which an image is refused."""
LIMIT_ASPECT: Final = 200
"""Longer over shorter side; Qwen2-VL's processor refuses what lies above (transformers, `smart_resize`)."""

UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of that EXIF orientation upright (EXIF 2.32, 4.6.4 A)."""
_SKIM_SIDE: Final = 96
_SIDEWAYS: Final = (5, 6, 7, 8)
_DEEP_MODES: Final = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")

_DECODER_ERRORS: Final = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)


def probe_image(data: bytes, *, limit_pixels: int = LIMIT_PIXELS) -> tuple[int, int]:
    """Width and height of the upright image in pixels, as its header declares them; nothing is decoded.

    Raises BadSample: no bytes or more than `LIMIT_BYTES`, no known format, more than `limit_pixels`, or sides that
    differ by more than `LIMIT_ASPECT`.
    """
    with _open(data, limit_pixels) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def decode_image(data: bytes, *, min_pixels: int = 0, max_pixels: int, limit_pixels: int = LIMIT_PIXELS) -> Image.Image:
    """The upright RGB image in `data`, scaled by `process_image`; raises BadSample like `probe_image`, or if torn."""
    with _open(data, limit_pixels) as image:
        seen = _decoded(image, _orientation(image), len(data))
    return process_image(seen, min_pixels=min_pixels, max_pixels=max_pixels)


def read_data_url(text: str) -> bytes | None:
    """The bytes of a `data:image/…;base64,…` URL; None for no data URL. Raises BadSample for another one."""
    if not text.startswith("data:"):
        return None
    head, _, body = text.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise BadSample(f"the image is the URL {text[:40]!r}…; expected data:image/…;base64,…")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise BadSample(f"the image is a data URL whose base64 cannot be read: {error}") from error


def skim_image(data: bytes, *, limit_pixels: int = LIMIT_PIXELS) -> Image.Image:
    """The upright RGB image in `data`, a JPEG at a half, a quarter or an eighth while no side falls below `_SKIM_SIDE`.

    All of it is read, so a torn one is found, but not every pixel computed. Raises BadSample as `decode_image` does.
    """
    with _open(data, limit_pixels) as image:
        orientation = _orientation(image)
        image.draft("RGB", (_SKIM_SIDE, _SKIM_SIDE))
        return _decoded(image, orientation, len(data))


def _decoded(image: Image.Image, orientation: int, size: int) -> Image.Image:
    """`image` upright and in RGB; raises BadSample when it is torn."""
    try:
        image.load()
        return to_rgb(image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image)
    except _DECODER_ERRORS as error:
        raise BadSample(f"the {image.format} image of {size} bytes cannot be decoded: {error}") from error


def process_image(image: Image.Image, *, min_pixels: int, max_pixels: int) -> Image.Image:
    """`image` in RGB, scaled to at most `max_pixels`, then to at least `min_pixels`; the aspect ratio is kept.

    Source: V-Triune's loader (MiniMax-AI/One-RL-to-See-Them-All at 39bcf0d, 2048² and 512²). Deviation: the image is
    converted before it is scaled, since transparency and palettes cannot be interpolated.
    """
    seen = to_rgb(image)
    size = scaled_size(*seen.size, min_pixels=min_pixels, max_pixels=max_pixels)
    return seen if size == seen.size else seen.resize(size)


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in RGB as a viewer shows it; raises ValueError for pixels that are no numbers."""
    if image.mode in _DEEP_MODES:
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey values `(H, W)` in 0..255.

    16-bit integers fill 0..65535. Wider integers and floating-point numbers do not say their range: they fill 0..1
    (floating-point) or 0..255 where all lie in it, else the span from their least to their greatest value.
    """
    real = values.astype(np.float32)
    if not np.isfinite(real).all():
        raise ValueError("the image has pixels that are no finite numbers")
    low, high = float(real.min()), float(real.max())
    tops = (65535.0,) if values.dtype.itemsize == 2 else (1.0, 255.0) if values.dtype.kind == "f" else (255.0,)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is None:
        real, top = real - low, max(high - low, 1e-30)
    scaled: NDArray[np.uint8] = np.rint(real * (255.0 / top)).astype(np.uint8)
    return scaled


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation (1 to 8) that is still to be applied; 1 where none is declared, or it cannot be read.

    Pillow applies a TIFF's own. It is read from what stands before the pixels: `PngImageFile.getexif` would decode the
    image in search of more.
    """
    if image.format == "TIFF":
        return 1
    try:
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except _DECODER_ERRORS:  # a torn tag is no fault of the pixels; viewers show them as they are
        return 1


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
