"""Math: the result of a sum or a difference on a blackboard. The mistake: one too many."""

from random import Random

from triune.demo.tasks.canvas import COLORS, background, paste_text
from triune.demo.tasks.drawn import Drawn, spoken

SUMS = [(a, "+", b, a + b) for a in range(1, 9) for b in range(1, 10 - a)]
DIFFERENCES = [(a, "-", b, a - b) for a in range(2, 10) for b in range(1, a)]


def draw(rng: Random) -> Drawn:
    """a + b or a - b, all three numbers from 1 to 9, in one of three rows; the trace spells the expression."""
    a, sign, b, result = rng.choice(rng.choice((SUMS, DIFFERENCES)))
    color = COLORS[rng.choice(list(COLORS))]
    canvas = background()
    middle = 28 * rng.randrange(3) + 14
    for index, character in enumerate((str(a), sign, str(b))):
        x, y = 28 * index + 14 + rng.randint(-2, 2), middle + rng.randint(-2, 2)
        paste_text(canvas, character, x, y, height=28, color=color)
    return spoken("math", canvas, "What is the result?", f"{a}{sign}{b}", str(result), str(result + 1))
