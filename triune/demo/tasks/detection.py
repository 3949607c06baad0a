"""Detection: the boxes of all objects of a colour and a shape. The mistake: boxes that are too large."""

from random import Random

from triune.demo.tasks.canvas import COLORS, SHAPES, background, paste_shape, place
from triune.demo.tasks.drawn import Drawn, Target, located


def draw(rng: Random) -> Drawn:
    """1 or 2 targets and 1 other object on a 14 px grid, 28 or 42 px large; boxes from top to bottom."""
    count = rng.randint(1, 2)
    color, shape = rng.choice(list(COLORS)), rng.choice(SHAPES)
    sizes = [28] * (count + 1)
    sizes[rng.randrange(count + 1)] = rng.choice((28, 42))
    corners = place(rng, sizes, apart=count)
    canvas = background()
    targets = []
    for index, ((x, y), size) in enumerate(zip(corners, sizes, strict=True)):
        if index < count:
            paste_shape(canvas, shape, color, x, y, size)
            targets.append(Target((x, y, x + size, y + size), f"{color} {shape}"))
        else:
            other = rng.choice([name for name in COLORS if name != color])
            paste_shape(canvas, rng.choice(SHAPES), other, x, y, size)
    targets.sort(key=lambda target: (target.corners[1], target.corners[0]))
    return located("detection", canvas, f"Detect all: {color} {shape}", "detect", targets)
