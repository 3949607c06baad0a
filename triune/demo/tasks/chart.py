"""Chart: the value of a bar, or the colour of the highest one. The mistake: one too many, or the bar beside it."""

from random import Random

from PIL import Image

from triune.demo.tasks.canvas import COLORS, background, polyline
from triune.demo.tasks.drawn import SIZE, Drawn, spoken

UNIT = 14
MOST = 5
WIDTH = 20


def draw(rng: Random) -> Drawn:
    """Three bars of different colours and values from 1 to 5, with a line at every unit; the trace reads them all."""
    colors, values = rng.sample(list(COLORS), 3), rng.sample(range(1, MOST + 1), 3)
    canvas = _bars(rng, colors, values)
    think = " ".join(f"{color} {value}" for color, value in zip(colors, values, strict=True))
    if rng.random() < 0.5:
        asked = rng.randrange(3)
        question, answer, wrong = f"What is the {colors[asked]} value?", str(values[asked]), str(values[asked] + 1)
    else:
        highest = values.index(max(values))
        question, answer, wrong = "Which bar is the highest?", colors[highest], colors[(highest + 1) % 3]
    return spoken("chart", canvas, question, think, answer, wrong)


def _bars(rng: Random, colors: list[str], values: list[int]) -> Image.Image:
    canvas = background()
    for value in range(1, MOST + 1):
        polyline(canvas, [(0, SIZE - UNIT * value), (SIZE - 1, SIZE - UNIT * value)], (150, 150, 150))
    for index, (color, value) in enumerate(zip(colors, values, strict=True)):
        left = 28 * index + 4 + rng.randint(-3, 3)
        canvas.paste(COLORS[color], (left, SIZE - UNIT * value, left + WIDTH, SIZE))
    return canvas
