"""Drawing on an 84 x 84 canvas: the background, smooth shapes, text.

The background is a fixed gradient (red rises with x, green with y), so that every patch tells its place by its colour.
Masks are drawn four times too large once, shrunk and kept: pasting one is what a sample costs.
"""

from functools import lru_cache
from itertools import pairwise
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from triune.demo.tasks.drawn import SIZE

Color = tuple[int, int, int]

COLORS: dict[str, Color] = {
    "red": (235, 45, 45),
    "green": (60, 225, 80),
    "blue": (80, 125, 255),
    "yellow": (255, 230, 60),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "cross")
DARK: Color = (25, 25, 35)
PALE: Color = (215, 215, 205)

_FINE = 4


def background() -> Image.Image:
    """A fresh canvas with the gradient."""
    return _gradient().copy()


@lru_cache(maxsize=1)
def _gradient() -> Image.Image:
    ramp = np.linspace(20, 110, SIZE).round().astype(np.uint8)
    pixels = np.full((SIZE, SIZE, 3), 40, dtype=np.uint8)
    pixels[:, :, 0] = ramp[None, :]
    pixels[:, :, 1] = ramp[:, None]
    return Image.fromarray(pixels, "RGB")


def paste_shape(canvas: Image.Image, shape: str, color: str, x: int, y: int, size: int) -> None:
    """`shape` with its bounding box at (x, y), `size` pixels wide and high, touching all four sides of it."""
    canvas.paste(COLORS[color], (x, y, x + size, y + size), _shape_mask(shape, size))


@lru_cache(maxsize=256)
def _shape_mask(shape: str, size: int) -> Image.Image:
    side = size * _FINE
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    if shape == "circle":
        draw.ellipse((0, 0, side - 1, side - 1), fill=255)
    elif shape == "square":
        draw.rectangle((0, 0, side - 1, side - 1), fill=255)
    elif shape == "triangle":
        draw.polygon(((side // 2, 0), (side - 1, side - 1), (0, side - 1)), fill=255)
    elif shape == "cross":
        low, high = side // 3, side - side // 3
        draw.rectangle((low, 0, high, side - 1), fill=255)
        draw.rectangle((0, low, side - 1, high), fill=255)
    else:
        raise ValueError(f"shape is {shape!r}; there are {', '.join(SHAPES)}")
    return mask.resize((size, size), Image.Resampling.BOX)


def paste_text(canvas: Image.Image, text: str, x: int, y: int, *, height: int, color: Color) -> None:
    """`text` in a box of `height` pixels, its middle at (x, y)."""
    mask = _text_mask(text, height)
    left, top = x - mask.width // 2, y - mask.height // 2
    canvas.paste(color, (left, top, left + mask.width, top + mask.height), mask)


@lru_cache(maxsize=512)
def _text_mask(text: str, height: int) -> Image.Image:
    font = ImageFont.load_default(size=height)
    left, top, right, bottom = (round(value) for value in font.getbbox(text))
    mask = Image.new("L", (max(1, right - left), max(1, bottom - top)), 0)
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font, stroke_width=0)
    return mask


def place(rng: Random, sizes: list[int], *, apart: int = 0) -> list[tuple[int, int]]:
    """Top left corners, multiples of 14, where squares of `sizes` (14, 28 or 42) do not overlap.

    The first `apart` of them do not even touch each other, so that two of one look never merge. Two squares of 28 and
    one of 42 at most find room within a few tries.
    """
    while True:
        corners = [_corner(rng, size) for size in sizes]
        boxes = [(x, y, x + size, y + size) for (x, y), size in zip(corners, sizes, strict=True)]
        pairs = [(i, j) for i in range(len(boxes)) for j in range(i)]
        if not any(_near(boxes[i], boxes[j], 1 if i < apart else 0) for i, j in pairs):
            return corners


def _corner(rng: Random, size: int) -> tuple[int, int]:
    steps = (SIZE - size) // 14 + 1
    return 14 * rng.randrange(steps), 14 * rng.randrange(steps)


def _near(a: tuple[int, int, int, int], b: tuple[int, int, int, int], gap: int) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def polyline(canvas: Image.Image, points: list[tuple[int, int]], color: Color, width: int = 1) -> None:
    """Straight lines from point to point."""
    draw = ImageDraw.Draw(canvas)
    for start, end in pairwise(points):
        draw.line((start, end), fill=color, width=width)
