"""The one option that an answer to a multiple-choice question names."""

import re
from collections.abc import Sequence

from shared.answers.plain import plain

_LONGEST = 2048
_LEADING = re.compile(r"[(\[{<\"']{0,2}\s?(?P<letter>[A-Za-z])(?P<closed>\s?[)\]}>\"']{1,2})?(?P<rest>.*)", re.DOTALL)
_DELIMITED = re.compile(r"\s*(?:$|[.:,;)\]!?、]|[-—–=]|\n|\s\\ )")
_CONNECTED = re.compile(
    r"\s*(?:[,/&+]|and|or|以及|和|或|与|及)\s*(?:option|choice)?\s*[(\[]?[A-Za-z](?![A-Za-z'])\s?[)\]]?(?!\s+[a-z])",
    re.IGNORECASE,
)
_ALONE = re.compile(r"[(\[]?\s?[A-Za-z]\s?[)\]]?\s?[.:]?")
_DENIED = re.compile(
    r"\s*[)\].,]?\s*(?:(?:is|are|was|would be|seems)\s+(?:not|wrong|incorrect|false)|isn't|不(?:是|对|正确)|错)",
    re.IGNORECASE,
)
_CUES = re.compile(
    r"(?:(?:answer|option|choice|letter|选项|答案|应选|选择|故选|选)"
    r"(?:\s+(?:is|would be|should be|must be)|是|为|应为|应该是)?\s*[:：]?\s*"
    r"(?:option|choice|letter|选项)?\s*[:：]?\s*"
    r"|(?:choose|select|pick|chose|go with|i'd say|is|it's|think|believe)\s+(?:option|choice|answer|the letter)?\s*)"
    r"[(\[\"']{0,2}\s?([A-Za-z])(?![A-Za-z0-9'])\s?[)\]\"']{0,2}",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"[(\[]?\b([A-Z])\b[)\]]?\s+is\s+(?:the\s+|my\s+)?(?:most\s+)?(?:correct|right|best|final|true|answer|appropriate|likely)"
)
_BRACKETED = re.compile(r"[(\[]\s?([A-Za-z])\s?[)\]]")
_NEGATED = re.compile(
    r"\b(?:not|neither|nor|isn't|wrong|incorrect|except|cannot|can't|unlikely|none)\b|不|非|错", re.IGNORECASE
)
_ARTICLES = frozenset("aAI")
_NO_NOUN = re.compile(r"\s+(?:\d|(?:because|since|as|due to|so|but|for)\b)")
"""What follows an option `A`, and no article."""


def read_letter(text: str) -> str | None:
    """The one option letter that `text` names, in lower case; None when it names none, or more than one.

    `B`, `(b)`, `B. a cat`, `B - a cat`, `"B"`, `**B**`, `Option B`, `the answer is (B)`, `B is correct`, `选B`. Two
    options ("A or C"), a word that starts with the letter, an article ("A cat") and "not B" are no answer.
    """
    if len(text) > _LONGEST:
        return None
    lines = [line for line in map(plain, text.split("\n")) if line]
    listed = _of_lines(lines) if len(lines) > 1 else None
    if listed is not None:
        return listed or None
    said = plain(text)
    found = _leading(said)
    if found is not None:
        return found or None
    for cues in (_CUES, _SUBJECT):
        letters = {match[1].lower() for match in cues.finditer(said) if _is_option(match, said, articles=cues is _CUES)}
        if len(letters) == 1:
            return letters.pop()
        if letters:
            return None
    letters = {match[1].lower() for match in _BRACKETED.finditer(said)}
    return letters.pop() if len(letters) == 1 and not _NEGATED.search(said) else None


def _of_lines(lines: Sequence[str]) -> str | None:
    """What several lines say: a letter alone above or below its reasons; "" where they list options; None: no more."""
    alone = {line.strip(" ()[].:").lower() for line in lines if _ALONE.fullmatch(line)}
    if alone:
        ends = any(_ALONE.fullmatch(line) for line in (lines[0], lines[-1]))
        return alone.pop() if len(alone) == 1 and ends else ""
    heads = {letter for line in lines if (letter := _leading(line))}
    return "" if len(heads) > 1 and _leading(lines[0]) else None


def _leading(said: str) -> str | None:
    """The letter that `said` starts with; "" when it starts with more than one; None when it starts with none."""
    found = _LEADING.match(said)
    if found is None:
        return None
    letter, rest, opened = found["letter"], found["rest"], found["closed"] is not None
    if _CONNECTED.match(rest) or _DENIED.match(rest) or (opened and _BRACKETED.match(rest.lstrip())):
        return ""
    if opened or _DELIMITED.match(rest):
        return letter.lower()
    if rest[:1].isspace() and letter.isupper() and (letter not in _ARTICLES or _NO_NOUN.match(rest)):
        return letter.lower() if not re.match(r"\s+(?:is|are|was|has)\b", rest) or _SUBJECT.match(said) else None
    return letter.lower() if re.match(r"[\u3400-\u9fff]", rest) else None


def _is_option(match: re.Match[str], said: str, *, articles: bool) -> bool:
    rest = said[match.end() :]
    if articles and match[1] in _ARTICLES and re.match(r"\s+[a-z]", said[match.end(1) :]):
        return False
    if _CONNECTED.match(rest):
        return False
    return not _DENIED.match(rest)
