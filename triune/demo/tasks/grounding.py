"""Grounding: the box of the one object that a phrase describes. The mistake: a box that is too large."""

from random import Random

from triune.demo.tasks.canvas import COLORS, SHAPES, background, paste_shape, place
from triune.demo.tasks.drawn import Drawn, Target, located


def draw(rng: Random) -> Drawn:
    """2 objects on a 14 px grid, 28 and 42 px large; the phrase names the target's colour, shape, or size."""
    colors, shapes, sizes = rng.sample(list(COLORS), 2), rng.sample(SHAPES, 2), [28, 42]
    rng.shuffle(sizes)
    corners = place(rng, sizes)
    canvas = background()
    for (x, y), size, color, shape in zip(corners, sizes, colors, shapes, strict=True):
        paste_shape(canvas, shape, color, x, y, size)
    phrase = rng.choice((f"{colors[0]} thing", shapes[0], "small thing" if sizes[0] == 28 else "large thing"))
    (x, y), size = corners[0], sizes[0]
    target = Target((x, y, x + size, y + size), phrase)
    return located("grounding", canvas, f"Where is the {phrase}?", "find", [target])
