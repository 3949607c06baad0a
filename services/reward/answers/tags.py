"""The form of a completion: its think and answer tags."""

_TAGS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")


def tag_format(completion: str) -> float:
    """A quarter for each of the four tags, on a line of its own, that occurs exactly once: 0, 0.25, … 1.

    Case-sensitive, and the order is not judged. Source: V-Triune's mathverify format reward (its paper's equation 4
    counts bare tags; the line breaks are its reward server's).
    """
    return sum(0.25 for tag in _TAGS if completion.count(tag) == 1)
