"""Which rows are left out before any model has seen them: the rules of V-Triune's paper (arXiv 2505.18129, 5.1.1.1).

Boxes are judged in thousandths of the image. Deviations: the paper does not say how long an overlong query is
(`MAX_QUESTION` characters here), nor what a complex phrase is (`MAX_LABEL_WORDS` words); that an OCR label must be
verifiable is what `data check` finds.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from services.data.reading.sample import Sample
from shared.samples.boxes import Box, parse_boxes

MAX_ANSWER = 20
MAX_QUESTION = 2000
MAX_BOXES_A_LABEL = 10
MAX_BOX_AREA = 0.5
"""Share of the image past which a box is too easy to find."""
MAX_LABEL_WORDS = 5

_UNREADABLE = re.compile(r"[=\[\]();]")
_TRUE_FALSE = frozenset({"true", "false", "yes", "no"})
_OPTIONS = re.compile(r"(?:^|\n|\s)\(?A[.):]\s.+(?:\n|\s)\(?B[.):]\s", re.DOTALL)


def why_left_out(sample: Sample) -> str | None:
    """The first rule of its task that the sample breaks, in a few words; None when it may stay."""
    rules = _RULES.get(sample.identity.task, _reasoning)
    return rules(sample)


def _reasoning(sample: Sample) -> str | None:
    answer, question = sample.answer.strip(), sample.turns[-1].content
    if sample.verifier == "choice" or _OPTIONS.search(question):
        return "multiple choice"
    if answer.lower() in _TRUE_FALSE:
        return "true or false"
    if _UNREADABLE.search(answer):
        return "an answer with one of = [ ] ( ) ;"
    if len(answer) > MAX_ANSWER:
        return f"an answer of more than {MAX_ANSWER} characters"
    if len(question) > MAX_QUESTION:
        return f"a question of more than {MAX_QUESTION} characters"
    return None


def _detection(sample: Sample) -> str | None:
    boxes = parse_boxes(sample.ground_truth) or []
    if max(Counter(box.label for box in boxes).values(), default=0) > MAX_BOXES_A_LABEL:
        return f"more than {MAX_BOXES_A_LABEL} boxes of a label"
    return _too_large(boxes)


def _grounding(sample: Sample) -> str | None:
    boxes = parse_boxes(sample.ground_truth) or []
    if any(len(box.label.split()) > MAX_LABEL_WORDS for box in boxes):
        return f"a label of more than {MAX_LABEL_WORDS} words"
    return _too_large(boxes)


def _too_large(boxes: Sequence[Box]) -> str | None:
    areas = [(x2 - x1) * (y2 - y1) / 1e6 for (x1, y1, x2, y2), _ in boxes]
    return f"a box of more than {MAX_BOX_AREA:.0%} of the image" if max(areas, default=0) > MAX_BOX_AREA else None


def _english(sample: Sample) -> str | None:
    text = sample.turns[-1].content + sample.answer
    return None if text.isascii() else "not in English letters"


_RULES: dict[str, Callable[[Sample], str | None]] = {
    "detection": _detection,
    "grounding": _grounding,
    "counting": _english,
    "ocr": _english,
}
"""By task; every other task reasons."""
