"""Counting: how many objects of a colour and a shape are there among others? The mistake: one too many."""

from random import Random

from triune.demo.tasks.canvas import COLORS, SHAPES, background, paste_shape
from triune.demo.tasks.drawn import Drawn, spoken

CELL = 28
OBJECT = 22
MOST = 5
MOST_OTHERS = 3


def draw(rng: Random) -> Drawn:
    """1 to 5 targets and 0 to 3 others in a 3 x 3 grid; the trace counts row by row."""
    count, others = rng.randint(1, MOST), rng.randint(0, MOST_OTHERS)
    color, shape = rng.choice(list(COLORS)), rng.choice(SHAPES)
    cells = rng.sample(range(9), count + others)
    canvas = background()
    rows = [0, 0, 0]
    for index, cell in enumerate(cells):
        row, column = divmod(cell, 3)
        look = (color, shape) if index < count else _other(rng, color, shape)
        rows[row] += index < count
        x, y = (CELL * place + rng.randint(1, CELL - OBJECT - 1) for place in (column, row))
        paste_shape(canvas, look[1], look[0], x, y, OBJECT)
    return spoken(
        "counting",
        canvas,
        f"How many {color} {_plural(shape)} are there?",
        " ".join(map(str, rows)),
        str(count),
        str(count + 1),
    )


def _other(rng: Random, color: str, shape: str) -> tuple[str, str]:
    """An object that shares the colour or the shape of the targets, never both."""
    if rng.random() < 0.5:
        return color, rng.choice([name for name in SHAPES if name != shape])
    return rng.choice([name for name in COLORS if name != color]), shape


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"
