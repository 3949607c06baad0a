"""Puzzle: which shape comes next, or which place breaks the row? The mistake: the other shape, or the next place."""

from random import Random

from PIL import Image

from triune.demo.tasks.canvas import COLORS, PALE, SHAPES, background, paste_shape, paste_text
from triune.demo.tasks.drawn import Drawn, spoken

PATTERNS = ("ABABAB", "AABAAB", "ABBABB")
"""Six places; of the last one the shape is asked."""


def draw(rng: Random) -> Drawn:
    """Six places in two rows of three; the trace names the shapes in reading order."""
    return _next(rng) if rng.random() < 0.5 else _odd(rng)


def _next(rng: Random) -> Drawn:
    pair = rng.sample(SHAPES, 2)
    shapes = [pair["AB".index(letter)] for letter in rng.choice(PATTERNS)]
    answer = shapes.pop()
    wrong = pair[0] if answer == pair[1] else pair[1]
    canvas = _six(rng, shapes)
    paste_text(canvas, "?", 70, 63, height=24, color=PALE)
    return spoken("puzzle", canvas, "Which shape comes next?", " ".join(shapes), answer, wrong)


def _odd(rng: Random) -> Drawn:
    usual, odd = rng.sample(SHAPES, 2)
    place = rng.randrange(6)
    shapes = [odd if index == place else usual for index in range(6)]
    wrong = str((place + 1) % 6 + 1)
    return spoken("puzzle", _six(rng, shapes), "Which place is different?", " ".join(shapes), str(place + 1), wrong)


def _six(rng: Random, shapes: list[str]) -> Image.Image:
    canvas = background()
    color = rng.choice(list(COLORS))
    for index, shape in enumerate(shapes):
        row, column = divmod(index, 3)
        x, y = 28 * column + 3 + rng.randint(-2, 2), 42 * row + 10 + rng.randint(-2, 2)
        paste_shape(canvas, shape, color, x, y, 22)
    return canvas
