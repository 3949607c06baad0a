"""OCR: the text on a plate, one letter and two digits. The mistake: the last character is missing.

The verifier reads letters as factors that commute (AB equals BA). A letter in front of two digits from 1 to 9 is the
form in which two different strings never are the same product; E and I, which it takes for constants, are left out.
"""

from random import Random

from triune.demo.tasks.canvas import DARK, PALE, background, paste_text
from triune.demo.tasks.drawn import SIZE, Drawn, spoken

LETTERS = "ACFHJKLMNPRTUVWXY"
DIGITS = "123456789"


def draw(rng: Random) -> Drawn:
    """Three characters, 28 px apart, on a pale plate in one of three rows."""
    text = rng.choice(LETTERS) + rng.choice(DIGITS) + rng.choice(DIGITS)
    canvas = background()
    middle = 28 * rng.randrange(3) + 14
    canvas.paste(PALE, (0, middle - 14, SIZE, middle + 14))
    for index, character in enumerate(text):
        x, y = 28 * index + 14 + rng.randint(-2, 2), middle + rng.randint(-2, 2)
        paste_text(canvas, character, x, y, height=28, color=DARK)
    return spoken("ocr", canvas, "What is written on the plate?", "read", text, text[:-1])
