"""The final answer of a completion, for the verifiers that compare text."""

import unicodedata

_OPEN, _CLOSE, _BOX = "<answer>", "</answer>", "\\boxed{"

_TAGS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")


def tag_format(completion: str) -> float:
    """A quarter for each of the four tags, on a line of its own, that occurs exactly once: 0, 0.25, … 1.

    Case-sensitive, and the order is not judged. Source: V-Triune's mathverify format reward (its paper's equation 4
    counts bare tags; the line breaks are its reward server's).
    """
    return sum(0.25 for tag in _TAGS if completion.count(tag) == 1)


def final_answer(text: str) -> str | None:
    """What `text` gives as its answer: the last box in the last answer block, else that block, else the last box.

    A block is `<answer>…</answer>`, a box `\\boxed{…}` with balanced braces. None when there is neither.
    """
    block = _last_block(text)
    box = last_box(text if block is None else block)
    found = block if box is None else box
    return None if found is None else found.strip()


def reference(ground_truth: str) -> str:
    """The answer in a ground truth, which may be bare, boxed or tagged."""
    found = final_answer(ground_truth)
    return ground_truth.strip() if found is None else found


def _last_block(text: str) -> str | None:
    end = text.rfind(_CLOSE)
    start = text.rfind(_OPEN, 0, end) if end >= 0 else -1
    return text[start + len(_OPEN) : end] if start >= 0 else None


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{…}` whose braces balance; None when there is none. Linear in the text."""
    limit = len(text)
    start = text.rfind(_BOX)
    while start >= 0:
        inside = start + len(_BOX)
        end = _closing(text, inside, limit)
        if end >= 0:
            return text[inside:end]
        # An open box swallows all that follows; one before it has to close before it.
        limit = start
        start = text.rfind(_BOX, 0, limit)
    return None


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


def normal_text(text: str) -> str:
    """`text` in Unicode form NFKC, case folded, runs of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
