"""Hostile completions, drawn: long, nested, half-closed, huge numbers, and what breaks parsers."""

import random
from collections.abc import Iterator

_PIECES = (
    *("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>", "<answer>", "</answer>", "\\boxed{", "\\fbox {"),
    *(
        "}",
        "{",
        "[",
        "]",
        "(",
        ")",
        "'",
        '"',
        "```json\n",
        "```",
        "$",
        "\\(",
        "\\[",
        "\\frac{1}{",
        "\\text{",
        "{{",
        "}}",
    ),
    *("9**9**9", "9^{9^{9^9}}", "10^{400}", "1e308", "1e999", "nan", "inf", "-", "0/0", "1/0", "1000000000!", "|"),
    *("<table><tr><td>", "<td colspan=999>", "</tr>", "\t", "\n", ",", ":", '"bbox_2d"', "[[0, 0], [9, 9], [9, 0]]"),
    *("{'bbox_2d': [1, 2, 3, 4], 'label': 'a'},", "<|box_start|>(1,2),(3,4)<|box_end|>", "\\u0000", "//", "#", "\\\\"),
    *("\x00", "\ufffd", "\u202e", "\ud7ff", "𝟙", "½", "万亿", "A or B", "the answer is", "答案是", "#### 7", "x", "yz"),
    *("listen", "7", "12,450", "3 million", "[[", "]]", "%", "&", "_", "^", "~", "null", "True", "=", "<", ">"),
)


def completions(count: int, seed: int = 0) -> Iterator[str]:
    """`count` different texts: most of them short, some of hundreds of thousands of characters."""
    draw = random.Random(seed)
    for number in range(count):
        pieces = draw.choices(_PIECES, k=draw.choice((1, 3, 10, 40, 200)))
        text = "".join(pieces)
        if draw.random() < 0.05:
            text = draw.choice(_PIECES) * draw.choice((1_000, 20_000, 60_000)) + text
        if draw.random() < 0.5:
            text = f"<think>\nI look.\n</think>\n<answer>\n{text}\n</answer>"
        yield f"{text}{number}" if draw.random() < 0.3 else text
