"""Where in a text its answer stands: answer blocks, boxes, and the phrases that announce one."""

import re

_OPEN, _CLOSE = "<answer>", "</answer>"
_THOUGHT = "</think>"
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,8}\{")
_MOST_BOXES = 32
_BETWEEN = re.compile(r"(?:\s|,|;|&|\\quad|\\qquad|\$|\\text|\{|\}|\band\b|\bor\b|和|或|、|,)*")
_LONGEST_BETWEEN = 64
_LONGEST_BARE = 80
# `Final answer: 4`, `**Answer:** 4`, `The correct option is C`, `#### 4`, `故选C`; or a heading `## Answer` with the
# answer in the line below it, perhaps behind the line that opens a formula.
_ANNOUNCED = re.compile(
    r"""(?:(?:^|\n)[#*_>\ \t]{1,8}(?:the\ )?(?:(?:final|correct)\ )?answer[*_\ \t]{0,4}(?=\n)
    |(?:\banswer|(?:correct|right|best)\ (?:option|choice))[*_]{0,3}(?:\s++(?:is|would\ be|should\ be)\b|\s*+[:：])
    |答案[*_]{0,3}(?:应该是|应为|应是|是|为|选)?|选项[*_]{0,3}(?:应该是|应为|应是|是|为)|(?:故|所以|因此|应)选(?:择)?
    |\#{4}(?!\#))
    [*_]{0,3}+\s*+[:：]?+[*_]{0,3}+\s*+(?:(?:\$\$|\\\[|```[a-z]{0,10})\s*\n\s*)?+([^\n]{1,512})""",
    re.IGNORECASE | re.VERBOSE,
)
_LEAD = re.compile(
    r"""[\s\#*_>]{0,8}(?:(?:so|thus|hence|therefore),?\ )?(?:(?:the|my)\ )?(?:(?:final|correct|right)\ )?
    (?:answer[*_]{0,3}(?:\ is\b|\s?[:：])|(?:正确|最终)?答案[*_]{0,3}(?:应该是|应为|应是|是|为|[:：]))
    [*_]{0,3}+\s*+[:：]?+[*_]{0,3}+\s*+(?=\S)""",
    re.IGNORECASE | re.VERBOSE,
)
_CUT_OFF = re.compile(r"</[answer]{0,6}\Z")


def final_answer(text: str) -> str | None:
    """What `text` gives as its answer, stripped; None when it gives none.

    It is sought after the last `</think>`, then in the whole text: the boxes of the last answer block, else that block
    (without "the answer is" at its start), else the last boxes, else what the last "answer is", heading "Answer" or
    "####" announces. A block is `<answer>…</answer>`, or an `<answer>` that was never closed. A box is `\\boxed{…}`,
    `\\fbox{…}`, also with a space before the brace. Boxes that only `,`, `and` or `or` part are one answer, joined by
    commas; of others the last one counts. A text, or what follows its thought, that is nothing but a short line is the
    answer itself.
    """
    after = after_thought(text)
    if after is not None:
        found = _answer_in(after)
        found = _bare(after) if found is None else found
        if found is not None:
            return found.strip()
    found = _answer_in(text)
    return None if found is None else found.strip()


def answer_body(text: str) -> str | None:
    """The last answer block of `text`, boxes and all; else its last boxes; None when there is neither."""
    after = after_thought(text) or ""
    for part in (after, text):
        block = last_block(part)
        if block is not None:
            return block.strip()
    return last_boxes(after) or last_boxes(text)


def answer_or_rest(text: str) -> str | None:
    """The `answer_body`, else what follows the thought: where a list, table or object is sought; None for neither."""
    body = answer_body(text)
    return after_thought(text) if body is None else body


def after_thought(text: str) -> str | None:
    """What follows the last `</think>`; the whole text where no thought was begun; None for one that goes on."""
    end = text.rfind(_THOUGHT)
    if end < 0:
        return None if "<think>" in text else text
    return text[end + len(_THOUGHT) :]


def reference(ground_truth: str) -> str:
    """The answer in a ground truth, which may be bare, boxed or tagged. Bare text is the answer, all of it."""
    block = last_block(ground_truth)
    inside = (ground_truth if block is None else block).strip()
    box = last_boxes(inside)
    return _unannounced(inside) if box is None else box.strip()


def last_block(text: str) -> str | None:
    """What the last answer block holds, up to its `</answer>` or to the end; None where there is no block.

    An open `<answer>` with nothing behind it is a slip for `</answer>`, or cut off: the one before it counts.
    """
    start, end = text.rfind(_OPEN), len(text)
    if start < 0:
        return None
    while start >= 0:
        shut = text.find(_CLOSE, start, end)
        inside = text[start + len(_OPEN) : shut if shut >= 0 else end]
        if shut >= 0:
            return inside
        if inside.strip():
            return _CUT_OFF.sub("", inside)
        start, end = text.rfind(_OPEN, 0, start), start
    return ""


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
        return _unannounced(block)
    announced = None
    for announced in _ANNOUNCED.finditer(text):  # noqa: B007 — the last one counts
        pass
    return announced[1].strip("*_ \t") or None if announced else None


def _unannounced(block: str) -> str:
    """`block` without "the answer is" at its start."""
    lead = _LEAD.match(block)
    return block if lead is None else block[lead.end() :].rstrip("* \t\n")


def _bare(text: str) -> str | None:
    said = text.strip()
    return said if 0 < len(said) <= _LONGEST_BARE and "\n" not in said else None
