"""Numbers in words: English up to the hundreds of thousands, Chinese up to 万."""

import re

ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {word: value for value, word in enumerate(ONES)}
_VALUES |= {word: 10 * value for value, word in enumerate(_TENS, start=2)}
_SCALES = {"hundred": 100, "thousand": 1000}
_WORD = re.compile(r"[ -]?([A-Za-z]+)")
_CHINESE_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_CHINESE_SCALES = {"十": 10, "百": 100, "千": 1000}
_CHINESE = re.compile("[零〇一二两三四五六七八九十百千]{1,12}")


def english_number(text: str) -> tuple[int, str] | None:
    """The whole number in words at the start of `text` and what follows it; None when it starts with none."""
    total, group, place, tens = 0, None, 0, False
    if text[:2].lower() == "a " and text[2:7].lower() in ("dozen", "hundr", "thous", "milli", "billi"):
        return 1, text[1:]
    while (found := _WORD.match(text, place)) is not None:
        word = found[1].lower()
        if word in _VALUES:
            value = _VALUES[word]
            if group is not None and not ((group % 100 == 0 and group) or (tens and 0 < value < 10)):
                return None  # "one two" is no number
            group, tens = (group or 0) + value, value >= 20
        elif word in _SCALES and group is not None:
            if word == "hundred":
                group = (group or 1) * 100
            else:
                total, group = total + group * 1000, 0
            tens = False
        elif word == "and" and group is not None and (group or total):
            after = _WORD.match(text, found.end())
            if after is None or after[1].lower() not in _VALUES:
                break
        else:
            break
        place = found.end()
    return None if group is None else (total + group, text[place:])


def chinese_number(text: str) -> tuple[int, str] | None:
    """The same for Chinese numerals below 万; what follows may be a magnitude (万, 亿) and a measure word."""
    found = _CHINESE.match(text)
    if found is None:
        return None
    total, digit, seen = 0, 0, False
    for sign in found[0]:
        if sign in _CHINESE_DIGITS:
            digit, seen = _CHINESE_DIGITS[sign], True
        else:
            total += (digit if seen and digit else 1) * _CHINESE_SCALES[sign]
            digit, seen = 0, False
    return total + digit, text[found.end() :]
