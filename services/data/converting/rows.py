"""Rows of the schema built from questions and boxes: the conventions of Orsta-Data-47k, in one place.

Boxes are whole numbers in thousandths of the upright image's width and height, cut like the verifier cuts a model's
(`int(x / width * 1000)`), so that an exact answer is exactly right. Ratios and parameters are those of the published
rows: detection 1 and 0.1 with `iou_max_label_first` 1 and `iou_completeness` 0.3, answers 1 and 0 (accuracy, format).
Sentences are written for this project.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from services.data.converting.reasons import LeftOut
from shared.errors import BadSample
from shared.messages import IMAGE_MARK
from shared.samples.images import probe_image
from shared.samples.schema import RATIO_NAMES

Row = dict[str, Any]

DETECTION_SENTENCES = (
    "Find every object of these kinds in the image:",
    "Mark each object in the picture that belongs to one of these kinds:",
    "Look for all objects of the kinds below and give a box for each:",
    "Where are the objects of these kinds? Box every one of them:",
    "Detect all objects of the following kinds:",
)
_BOX_FORM = (
    "Reason between <think> and </think>. Then give the boxes between <answer> and </answer>, in this form:\n"
    "<think>\nreasoning\n</think>\n<answer>\n[{'bbox_2d': [x1, y1, x2, y2], 'label': 'kind'}]\n</answer>"
)
_ANSWER_FORM = "Put the final answer in \\boxed{}."
_DETECTION_RATIOS = dict.fromkeys(RATIO_NAMES, 0.0) | {"iou_max_label_first": 1.0, "iou_completeness": 0.3}


@dataclass(frozen=True)
class Draft:
    """One row to be: `key` names its item in the source; `make` loads what it needs, and may raise BadSample."""

    key: str
    make: Callable[[], Row]


Drafts = Iterator[Draft]


class Labelled(NamedTuple):
    """A box in pixels of the upright image, `(x1, y1, x2, y2)`, and what it holds."""

    corners: tuple[float, float, float, float]
    label: str


def boxes_row(
    *, source: str, key: str, image: bytes, path: str, boxes: Sequence[Labelled], size: tuple[int, int] | None = None
) -> Row:
    """A detection row: all boxes of all labels. `size` is the width and height that the annotation was made for.

    Raises BadSample: no box, one that is empty in the image, an unreadable image, or an image of another size (boxes
    would not fit).
    """
    if not boxes:
        raise BadSample("no boxes")
    width, height = image_size(image)
    if size is not None and size != (width, height):
        sizes = f"{width}x{height} pixels, annotated as {size[0]}x{size[1]}"
        raise LeftOut("the image is not of the size that its annotation says", sizes)
    corners = [relative(box.corners, width, height) for box in boxes]
    if any(x1 >= x2 or y1 >= y2 for x1, y1, x2, y2 in corners):
        raise BadSample("a box that is outside of the image, or thinner than a thousandth of it")
    names = [clean_label(box.label) for box in boxes]
    labels = list(dict.fromkeys(names))
    listed = "\n".join(f"- {label}" for label in labels)
    sentence = DETECTION_SENTENCES[_pick(key, len(DETECTION_SENTENCES))]
    answer = str([{"bbox_2d": box, "label": name} for box, name in zip(corners, names, strict=True)])
    reward = {
        "answer": answer,
        "ground_truth": f"<answer>\n{answer}\n</answer>",
        "accuracy_ratio": 1.0,
        "format_ratio": 0.1,
        "verifier": "detection",
        "verifier_parm": {"det_verifier_normalized": True, "det_reward_ratio": _DETECTION_RATIOS},
    }
    return _row(source, key, f"<image>\n{sentence}\n{listed}\n\n{_BOX_FORM}", [(image, path)], "cv_detection", reward)


def answer_row(
    *,
    source: str,
    key: str,
    question: str,
    answer: str,
    images: Sequence[tuple[bytes, str]],
    ability: str,
    verifier: str = "",
    has_options: bool = False,
    turns: Sequence[dict[str, str]] = (),
) -> Row:
    """A question with one answer; `turns` stand before it. Raises BadSample: no question, no answer, or too few images.

    `verifier` empty: the one that fits the answer; `has_options` says that the question names letters to choose from.
    """
    answer = after_hashes(answer)
    verifier = verifier or verifier_for(answer, has_options=has_options)
    if not question.strip() or not answer.strip():
        raise BadSample("an empty question" if not question.strip() else "an empty answer")
    marks = question.count(IMAGE_MARK) + sum(turn["content"].count(IMAGE_MARK) for turn in turns)
    if marks > len(images):
        raise LeftOut(f"the prompt has more {IMAGE_MARK} than its row has images", f"{marks} for {len(images)}")
    text = IMAGE_MARK * (len(images) - marks) + question
    if verifier != "mathverify":  # the data service asks mathverify rows itself
        text = f"{text}\n{_ANSWER_FORM}"
    reward = {
        "answer": answer,
        "ground_truth": answer if "\\boxed{" in answer or "<answer>" in answer else f"\\boxed{{{answer}}}",
        "accuracy_ratio": 1.0,
        "format_ratio": 0.0,
        "verifier": verifier,
        "verifier_parm": {"det_verifier_normalized": None, "det_reward_ratio": dict.fromkeys(RATIO_NAMES)},
    }
    return _row(source, key, text, images, ability, reward, turns)


def after_hashes(text: str) -> str:
    """What follows the last `####`, which in GSM8K's form ends the way to the answer; `text` where there is none."""
    return text.rpartition("####")[2].strip() if "####" in text else text


def verifier_for(answer: str, *, has_options: bool) -> str:
    """The verifier that fits an answer: a letter of options, a number or formula, else text."""
    plain = answer.strip()
    if has_options and len(plain) == 1 and plain.isalpha():
        return "choice"
    return "mathverify" if any(character.isdigit() for character in plain) or "\\" in plain else "exact"


def image_size(image: bytes) -> tuple[int, int]:
    """`probe_image`, with a reason that is the same for all images that cannot be used."""
    try:
        return probe_image(image)
    except BadSample as error:
        raise LeftOut("an image that cannot be used", error) from error


def relative(corners: Sequence[float], width: int, height: int) -> list[int]:
    """Pixels as thousandths of the image, cut to whole numbers and to the image."""
    x1, y1, x2, y2 = corners
    scaled = (x1 / width, y1 / height, x2 / width, y2 / height)
    return [min(1000, max(0, int(value * 1000))) for value in scaled]


def clean_label(label: str) -> str:
    """A label that survives in the answer's list: an apostrophe would end its string."""
    return label.strip().replace("'", "’").replace('"', "”").replace("\\", "/")


def _row(
    source: str,
    key: str,
    text: str,
    images: Sequence[tuple[bytes, str]],
    ability: str,
    reward: Row,
    turns: Sequence[dict[str, str]] = (),
) -> Row:
    return {
        "data_source": source,
        "images": [{"bytes": data, "path": path} for data, path in images],
        "prompt": [*turns, {"content": text, "role": "user"}],
        "ability": ability,
        "reward_model": reward,
        "extra_info": {"id": f"{source}/{key}", "image_path": images[0][1] if images else None},
    }


def _pick(key: str, count: int) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "little") % count
