"""One number, exactly, out of the forms that people and models write it in."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from shared.answers.counting import chinese_number, english_number
from shared.answers.plain import plain
from shared.answers.units import known_unit

_LONGEST = 160  # characters of an answer that may be a number
_MOST_DIGITS = 400
_LARGEST_EXPONENT = 400
_PERCENT_BEFORE = "百分之"

_NUMERAL = "零一二两三四五六七八九十百千"
_LEAD = re.compile(
    r"(?:so|thus|hence|therefore|it is|it's|there (?:are|is|were|was)|in total|altogether|overall|exactly"
    r"|(?:a )?total of|(?:i|we)(?: can)? (?:count|counted|see|find|found|have)"
    r"|(?:the )?(?:image|picture|photo|figure|diagram|chart|graph) (?:shows|contains|has|depicts|displays)"
    r"|(?:the )?(?:final |correct |right |approximate )?"
    r"(?:answer|value|result|total|number|count|sum|length|area|angle)(?: is| =|:| equals)(?: about| approximately)?"
    r"|(?:the|its|their) [A-Za-z' -]{1,80} (?:is|are|was|were|equals)(?: equal to)?"
    rf"|(?:(?![不非没无未{_NUMERAL}])[\u3400-\u9fff]){{0,16}}?(?:有|是|为|等于|一?共有?|约|大约|第)[:：]?"
    rf"(?=[ 约共-]*[$￥¥]?[\d{_NUMERAL}])"
    r"|about|approximately|approx\.?|around|roughly|nearly|almost"
    r"|(?:m?(?:\\angle|∠) ?)?[A-Za-z](?:_?\{?[A-Za-z0-9]{1,4}\}?)? ?(?:=|\\approx|\\simeq|≈)"
    r"|≈|\\approx|\\simeq|\\sim|=|:)[ ,:]*",
    re.IGNORECASE,
)
_MINUS = re.compile(r"(?:minus|negative) (?=\S)", re.IGNORECASE)
_CURRENCY = r"(?:(?:US|HK|NT|CA|AU|NZ|R)?\$|[€£¥₹₩元₽]|Rs\.?|USD|EUR|GBP|CNY|RMB|JPY|INR|CHF)"
_SIGNS = re.compile(rf"([+-]?) ?({_CURRENCY}?) ?([+-]?) ?(.*)", re.DOTALL)
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d{1,3}(?: \d{3})+|\d{1,3}(?:[_']\d{3})+|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_EUROPEAN = r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}(?![\d.])"
_POWER = r"(?:\^ ?\{? ?[+-]?\d{1,4} ?\}?)"
_FRACTION = re.compile(
    rf"(?:(?P<whole>\d{{1,15}})(?: and)? ?)?\\[dtc]?frac ?(?:\{{ ?(?P<above>-?{_DECIMAL}) ?\}}|(?P<above1>\d)) ?"
    rf"(?:\{{ ?(?P<below>-?{_DECIMAL}) ?\}}|(?P<below1>\d))"
)
_SLASHED = re.compile(rf"(?:(?P<whole>\d{{1,15}})(?:-| and | ))?(?P<above>{_DECIMAL}) ?/ ?(?P<below>-?{_DECIMAL})")
_SCIENTIFIC = re.compile(
    rf"(?:(?P<mantissa>{_DECIMAL}) ?(?:\\times|\\cdot|\*|x|X) ?)?10 ?(?P<power>{_POWER}|\*\* ?[+-]?\d{{1,4}})"
)
_PLAIN = re.compile(rf"(?P<european>{_EUROPEAN})|(?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[+-]?\d{{1,4}}))?(?!\.?\d)")
_MAGNITUDES = {
    **dict.fromkeys(("dozen", "dozens"), 12),
    **dict.fromkeys(("hundred", "hundreds"), 10**2),
    **dict.fromkeys(("thousand", "thousands", "thsd"), 10**3),
    **dict.fromkeys(("million", "millions", "mln", "mio", "mn"), 10**6),
    **dict.fromkeys(("billion", "billions", "bln", "bn"), 10**9),
    **dict.fromkeys(("trillion", "trillions", "tn", "trn"), 10**12),
    **dict.fromkeys(("lakh", "lakhs"), 10**5),
    **dict.fromkeys(("crore", "crores"), 10**7),
}
_ATTACHED = {
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "B": 10**9,
    "T": 10**12,
    "MM": 10**6,
    "bn": 10**9,
    "mn": 10**6,
    "tn": 10**12,
}
_CHINESE = {"十": 10, "百": 10**2, "千": 10**3, "万": 10**4, "百万": 10**6, "千万": 10**7, "亿": 10**8, "万亿": 10**12}
_MAGNITUDE_WORD = re.compile(r"[ -]?([A-Za-z]{2,9})(?![A-Za-z])\.?")
_ATTACHED_MAGNITUDE = re.compile(r"(MM|bn|mn|tn|[kKMBT])(?![A-Za-zΩμ/^²³])")
_CHINESE_MAGNITUDE = re.compile(r" ?(万亿|百万|千万|[十百千万亿])")
_PERCENT = re.compile(r" ?(?:%|percent(?:age)?|per cent|pct\.?)", re.IGNORECASE)
_NO_UNIT = (
    "or|and|to|plus|minus|times|over|through|versus|vs|by|point|half|if|but|not|nor|maybe|perhaps|more|less|fewer|than"
    "|else|then|between|either|neither|no|dozen|dozens|hundred|thousand|million|billion|trillion|lakh|crore"
)
_NO_UNITS = frozenset(_NO_UNIT.split("|"))
_EXPONENT = r"(?:\^ ?\{? ?-?\d ?\}?|[23])?"
# Letters that are a factor and no unit: 2x, 2 x, 2ab, 2x^2. A word needs three letters, or a space before it.
_FACTOR = re.compile(rf"(?: ?[A-Za-z]|[A-Za-z]{{2,4}}){_EXPONENT}\.?| ?[A-Za-z]{{1,3}} ?\^.*")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)
_TWICE = re.compile(r" ?\((\d{1,15}(?:\.\d{1,15})?)\)\.?")  # three (3)
_UNIT = re.compile(
    r"[ -]?(?:\^? ?\{? ?(?:\\circ|°|º|\\degrees?) ?\}? ?[CFK]?"
    r"|[A-Za-zµμΩÅ$€£¥₹]{1,24}\.?(?:[ /·-](?:per |\\cdot )?[A-Za-zµμΩÅ]{1,24}\.?|/|\\cdot ){0,4}"
    rf"{_EXPONENT}(?:/[A-Za-z]{{1,12}}{_EXPONENT})?"
    r"|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,8}|[€£¥₹₩元'\"])?(?: ?\([^()0-9]{0,40}\))?[.,;。]?"
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number: its exact value, whether a percent sign stood behind it, and its unit ("" for none or an unknown one).

    `exact` is false where no finite decimal has that value (1/3).
    """

    value: Fraction
    percent: bool = False
    unit: str = ""

    @property
    def exact(self) -> bool:
        below = self.value.denominator
        while below % 2 == 0:
            below //= 2
        while below % 5 == 0:
            below //= 5
        return below == 1

    def agrees(self, truth: "Number", bound: Fraction) -> bool:
        """Whether this answer lies within `bound` of the truth, their units not contradicting each other.

        A percent sign may stand on one side alone: 50% answers 50, and 0.5 answers 50%, but 0.5 does not answer 50.
        """
        if self.unit and truth.unit and self.unit != truth.unit:
            return False
        if abs(self.value - truth.value) <= bound:
            return True
        if self.percent == truth.percent:
            return False
        hundredth = bound / 100 if truth.percent else bound
        one = self.value / 100 if self.percent else self.value
        other = truth.value / 100 if truth.percent else truth.value
        return abs(one - other) <= hundredth


def read_number(text: str) -> Number | None:
    """The one number that `text` is, perhaps with a sign, a currency, a magnitude word, a unit; None when it is none.

    Digits (also full-width) with any thousands separators, decimals, exponents, ×10^n, percent, fractions, mixed
    numbers, LaTeX's `\\frac`, English and Chinese number words; "x = ", "about", "the answer is" before it.
    """
    if len(text) > 4 * _LONGEST:
        return None
    found = plain(text)
    return _read(found) if len(found) <= _LONGEST else None


def _read(text: str) -> Number | None:
    for _ in range(4):
        lead = _LEAD.match(text)
        if lead is None or lead.end() == len(text):
            break
        text = text[lead.end() :]
    if len(text) > 2 and text[0] == text[-1] == "$":  # mathematics, perhaps of an amount in dollars
        text = text[1:-1]
    text = text.strip()
    minus = _MINUS.match(text)
    if minus is not None:
        found = _read(text[minus.end() :])
        return None if found is None else replace(found, value=-found.value)
    words = english_number(text) or chinese_number(text)
    if words is not None and not text.startswith(_PERCENT_BEFORE):
        return _finish(Fraction(words[0]), words[1])
    percent = text.startswith(_PERCENT_BEFORE)
    if percent:
        text = text.removeprefix(_PERCENT_BEFORE)
    sign, currency, inner, text = _SIGNS.fullmatch(text).groups()  # type: ignore[union-attr]
    core = _core(text)
    if core is None or (sign and inner):
        return None
    found = _finish(-core[0] if "-" in (sign, inner) else core[0], core[1])
    if found is None:
        return None
    return Number(found.value, percent or found.percent, found.unit or known_unit(currency.removeprefix("US")))


def _core(text: str) -> tuple[Fraction, str] | None:
    """The unsigned number at the start of `text` and what follows it."""
    try:
        for pattern in (_FRACTION, _SLASHED):
            found = pattern.match(text)
            if found is not None:
                groups = found.groupdict()
                above = _decimal(groups["above"] or groups["above1"])
                below = _decimal(groups["below"] or groups["below1"])
                return _decimal(groups["whole"] or "0") + above / below, text[found.end() :]
        found = _SCIENTIFIC.match(text)
        if found is not None:
            power = int(re.sub(r"[^\d-]", "", found["power"].replace("**", "")))
            return _scaled(_decimal(found["mantissa"] or "1"), power), text[found.end() :]
        found = _PLAIN.match(text)
        if found is None:
            words = chinese_number(text)
            return None if words is None else (Fraction(words[0]), words[1])
        if found["european"]:
            return _decimal(found["european"].replace(".", "").replace(",", ".")), text[found.end() :]
        return _scaled(_decimal(found["decimal"]), int(found["exponent"] or 0)), text[found.end() :]
    except (ValueError, ZeroDivisionError):
        return None


def _finish(value: Fraction, rest: str) -> Number | None:
    """The number with what follows its digits: magnitude, percent sign, unit. None when more than that follows."""
    factor, rest = _magnitude(rest)
    value *= factor
    sign = _PERCENT.match(rest)
    if sign is not None:
        rest = rest[sign.end() :]
    twice = _TWICE.fullmatch(rest)
    if twice is not None and Fraction(twice[1]) == value:
        rest = ""
    found = _UNIT.fullmatch(rest)
    if found is None or any(word in _NO_UNITS for word in re.findall(r"[a-z]+", rest.lower())):
        return None
    unit = known_unit(rest)
    if not unit and _FACTOR.fullmatch(rest) and not _ORDINAL.match(rest):
        return None
    return Number(value, percent=sign is not None, unit=unit)


def _magnitude(rest: str) -> tuple[int, str]:
    """The factor that a word or letter at the start of `rest` stands for, 1 for none; and what follows it."""
    factor = 1
    for _ in range(2):  # hundred thousand, 百万
        found = _ATTACHED_MAGNITUDE.match(rest)
        if found is not None and factor == 1:
            return _ATTACHED[found[1]], rest[found.end() :]
        found = _CHINESE_MAGNITUDE.match(rest)
        if found is not None:
            factor, rest = factor * _CHINESE[found[1]], rest[found.end() :]
            continue
        found = _MAGNITUDE_WORD.match(rest)
        if found is None or found[1].lower() not in _MAGNITUDES:
            break
        factor, rest = factor * _MAGNITUDES[found[1].lower()], rest[found.end() :]
    return factor, rest


def _decimal(text: str) -> Fraction:
    digits = re.sub(r"[ ,_'{}]", "", text)
    if len(digits) > _MOST_DIGITS:
        raise ValueError("too many digits")
    return Fraction(digits[:-1] if digits.endswith(".") else digits)


def _scaled(value: Fraction, power: int) -> Fraction:
    if abs(power) > _LARGEST_EXPONENT:
        raise ValueError("the exponent is too large")
    return value * Fraction(10) ** power
