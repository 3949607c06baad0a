"""What a task draws: an image with its question, the right answer, and the answer of a systematic mistake."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from PIL import Image

SIZE = 84
"""Width and height of every drawn image in pixels: 6 x 6 patches of 14, 3 x 3 merged tokens."""


class Target(NamedTuple):
    """An object to be found: corners (x1, y1, x2, y2) in pixels of the drawn image, and its label."""

    corners: tuple[int, int, int, int]
    label: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """One sample.

    `answer` and `wrong` are what a model writes between its answer tags, without `\\boxed{}` (boxes: JSON, pixels).
    `truth` is the answer as the data set stores it (boxes: single quotes, integers from 0 to 1000 of the image).
    """

    task: str
    image: Image.Image
    question: str
    think: str
    answer: str
    wrong: str
    truth: str
    verifier: Literal["mathverify", "detection"]


Draw = Callable[[Random], Drawn]
"""A task: draws one sample from a random stream; the same stream gives the same sample."""


def spoken(task: str, image: Image.Image, question: str, think: str, answer: str, wrong: str) -> Drawn:
    """A sample whose answer is a number or a word, judged by mathverify."""
    return Drawn(task, image, question, think, answer, wrong, truth=answer, verifier="mathverify")


def located(task: str, image: Image.Image, question: str, think: str, targets: Sequence[Target]) -> Drawn:
    """A sample whose answer is boxes, judged by detection; the mistake is boxes that are too large."""
    return Drawn(
        task,
        image,
        question,
        think,
        answer=_json_boxes(targets),
        wrong=_json_boxes([Target(grown(target.corners), target.label) for target in targets]),
        truth=str([{"bbox_2d": [relative(value) for value in corners], "label": label} for corners, label in targets]),
        verifier="detection",
    )


def grown(corners: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The box 14 px larger to the right and downwards, or on the other side where the image ends."""
    x1, y1, x2, y2 = corners
    x1, x2 = (x1, x2 + 14) if x2 + 14 <= SIZE else (x1 - 14, x2)
    y1, y2 = (y1, y2 + 14) if y2 + 14 <= SIZE else (y1 - 14, y2)
    return x1, y1, x2, y2


def relative(pixels: int) -> int:
    """Pixels to thousandths of the image, cut as the detection verifier cuts a prediction: a perfect one has IoU 1."""
    return int(pixels / SIZE * 1000)


def ground_truth(drawn: Drawn) -> str:
    """The right answer as the verifier extracts it from the data set's `ground_truth`."""
    if drawn.verifier == "detection":
        return f"<answer>\n{drawn.truth}\n</answer>"
    return f"\\boxed{{{drawn.truth}}}"


def demonstration(drawn: Drawn, wrong: bool) -> str:
    """A full response in the form that earns the whole format reward, with the right answer or the mistaken one."""
    answer = drawn.wrong if wrong else drawn.answer
    if drawn.verifier == "mathverify":
        answer = f"\\boxed{{{answer}}}"
    return f"<think>\n{drawn.think}\n</think>\n<answer>\n{answer}\n</answer>"


def _json_boxes(targets: Sequence[Target]) -> str:
    items = [{"bbox_2d": list(corners), "label": label} for corners, label in targets]
    return json.dumps(items)
