"""Science: read a thermometer, or say which side of a lever goes down. The mistake: one too many, or the other side."""

from random import Random

from PIL import ImageDraw

from triune.demo.tasks.canvas import COLORS, DARK, PALE, background, paste_text, polyline
from triune.demo.tasks.drawn import Drawn, spoken

DEGREE = 7
ZERO_Y = 74
WEIGHT = 9
OTHER_SIDE = {"left": "right", "right": "left", "balanced": "left"}


def draw(rng: Random) -> Drawn:
    """Half thermometers, half levers."""
    return _thermometer(rng) if rng.random() < 0.5 else _lever(rng)


def _thermometer(rng: Random) -> Drawn:
    """A column from 0 to 9 units, a tick at each; the tube stands left, in the middle or right."""
    degrees, x, zero = rng.randint(0, 9), 28 * rng.randrange(3) + 12 + rng.randint(-4, 4), ZERO_Y - rng.randint(0, 3)
    canvas = background()
    pen = ImageDraw.Draw(canvas)
    pen.rounded_rectangle((x - 5, zero - 70, x + 3, zero + 8), radius=4, fill=PALE)
    pen.ellipse((x - 5, zero, x + 3, zero + 8), fill=COLORS["red"])
    pen.rectangle((x - 3, zero - DEGREE * degrees, x + 1, zero + 4), fill=COLORS["red"])
    for value in range(10):
        y = zero - DEGREE * value
        polyline(canvas, [(x + 4, y), (x + (8 if value % 5 == 0 else 6), y)], PALE)
    for value in (0, 5):
        paste_text(canvas, str(value), x + 11, zero - DEGREE * value, height=9, color=PALE)
    return spoken("science", canvas, "What is the temperature?", "scale", str(degrees), str(degrees + 1))


def _lever(rng: Random) -> Drawn:
    """1 to 4 equal weights on each end of a beam that is held level; the trace counts them."""
    left, right = rng.randint(1, 4), rng.randint(1, 4)
    canvas = background()
    pen = ImageDraw.Draw(canvas)
    beam = 56 + rng.randint(-3, 3)
    pen.rectangle((4, beam, 79, beam + 3), fill=PALE)
    pen.polygon(((42, beam + 4), (32, 80), (52, 80)), fill=PALE)
    color = COLORS[rng.choice(list(COLORS))]
    for center, count in ((14 + rng.randint(-2, 2), left), (70 + rng.randint(-2, 2), right)):
        for index in range(count):
            bottom = beam - 1 - (WEIGHT + 2) * index
            pen.rectangle((center - 8, bottom - WEIGHT, center + 8, bottom), fill=color, outline=DARK)
    answer = "balanced" if left == right else "left" if left > right else "right"
    return spoken("science", canvas, "Which side goes down?", f"{left}:{right}", answer, OTHER_SIDE[answer])
