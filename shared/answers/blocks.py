"""Where in a text its answer stands: answer blocks, boxes, and the phrases that announce one."""

import re

_OPEN, _CLOSE = "<answer>", "</answer>"
_THOUGHT = "</think>"
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,8}\{")
_MOST_BOXES = 32
_BETWEEN = re.compile(r"(?:\s|,|;|&|\\quad|\\qquad|\$|\\text|\{|\}|\band\b|\bor\b|和|或|、|,)*")
_LONGEST_BETWEEN = 64
# A line such as `Final answer: 4`, `The answer is 4.` or `#### 4`.
_ANNOUNCED = re.compile(
    r"(?:answer(?:\s+is|\s*:)|答案(?:是|为)?\s*[:：]?|####)\s*:?[ \t]*([^\n]{1,512})", re.IGNORECASE
)


def final_answer(text: str) -> str | None:
    """What `text` gives as its answer, stripped; None when it gives none.

    It is sought after the last `</think>`, then in the whole text: the boxes of the last answer block, else that
    block, else the last boxes, else what the last "answer is" or "####" announces. A block is `<answer>…</answer>`, or
    an `<answer>` that was never closed. A box is `\\boxed{…}`, `\\fbox{…}`, also with a space before the brace. Boxes
    that only `,`, `and` or `or` part are one answer, joined by commas; of others the last one counts.
    """
    after = text[text.rfind(_THOUGHT) + len(_THOUGHT) :] if _THOUGHT in text else text
    found = _answer_in(after)
    if found is None and len(after) < len(text):
        found = _answer_in(text)
    return None if found is None else found.strip()


def answer_body(text: str) -> str | None:
    """The last answer block of `text`, boxes and all; else its last boxes; None when there is neither."""
    after = text[text.rfind(_THOUGHT) + len(_THOUGHT) :] if _THOUGHT in text else text
    for part in (after, text):
        block = last_block(part)
        if block is not None:
            return block.strip()
    return last_boxes(after) or last_boxes(text)


def reference(ground_truth: str) -> str:
    """The answer in a ground truth, which may be bare, boxed or tagged. Bare text is the answer, all of it."""
    block = last_block(ground_truth)
    inside = (ground_truth if block is None else block).strip()
    box = last_boxes(inside)
    return inside if box is None else box.strip()


def last_block(text: str) -> str | None:
    """What the last `<answer>…</answer>` holds; after the last closed one, an open block counts to the end."""
    end = text.rfind(_CLOSE)
    if end < 0:
        start = text.rfind(_OPEN)
        return text[start + len(_OPEN) :] if start >= 0 else None
    start = text.rfind(_OPEN, 0, end)
    return text[start + len(_OPEN) : end] if start >= 0 else None


def last_boxes(text: str) -> str | None:
    """The contents of the last box whose braces balance, and of the boxes joined to it; None when there is none."""
    spans = _box_spans(text)
    if not spans:
        return None
    contents = [text[spans[0][1] : spans[0][2]]]
    for (_, start, end), (start_of_next, _, _) in zip(spans[1:], spans, strict=False):
        between = text[end + 1 : start_of_next]
        if not between.strip() or len(between) > _LONGEST_BETWEEN or not _BETWEEN.fullmatch(between):
            break
        contents.append(text[start:end])
    return ", ".join(content.strip() for content in reversed(contents))


def _box_spans(text: str) -> list[tuple[int, int, int]]:
    """(start of the command, start and end of the content) of the last boxes, the last one first; at most 32.

    Linear in the text: a box that never closes swallows all that follows, so one before it has to close before it.
    """
    found: list[tuple[int, int, int]] = []
    limit = len(text)
    for opened in reversed(list(_BOX.finditer(text))):
        end = _closing(text, opened.end(), limit)
        limit = opened.start()
        if end >= 0:
            found.append((opened.start(), opened.end(), end))
            if len(found) == _MOST_BOXES:
                break
        elif found:
            break
    return found


def _closing(text: str, start: int, limit: int) -> int:
    """The place of the brace that closes one opened just before `start`; -1 when none before `limit` does."""
    depth, place = 1, start
    while depth:
        shut = text.find("}", place, limit)
        if shut < 0:
            return -1
        depth += text.count("{", place, shut) - 1
        place = shut + 1
    return place - 1


def _answer_in(text: str) -> str | None:
    block = last_block(text)
    boxes = last_boxes(text if block is None else block)
    if boxes is not None:
        return boxes
    if block is not None:
        return block
    announced = None
    for announced in _ANNOUNCED.finditer(text):  # noqa: B007 — the last one counts
        pass
    return announced[1] if announced else None
