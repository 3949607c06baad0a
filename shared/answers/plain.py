"""Text without its dress: code fences, markdown, LaTeX wrappers and spacing, quotes, full-width forms."""

import re
import unicodedata

_FENCE = re.compile(r"```[A-Za-z0-9_+-]{0,20}[ \t]*\n?|~~~[A-Za-z0-9_+-]{0,20}[ \t]*\n?")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT = re.compile("⁻?[⁰¹²³⁴-⁹]{1,4}")
_VULGAR = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞])")
_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mathtt|mathbb|emph|mbox|hbox"
    r"|boldsymbol|bm|operatorname|boxed|fbox|underline)\s?\*?\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_BARE_COMMANDS = re.compile(
    r"\\(?:displaystyle|textstyle|left|right|bf|rm|it|big|Big|bigg|Bigg|limits|mathstrut)(?![A-Za-z])"
)
_SPACES = re.compile(
    r"\\[,;:!> ]|\\(?:quad|qquad|thinspace|enspace|space)(?![A-Za-z])|~|[\u00a0\u2000-\u200a\u202f\u205f\u3000]"
)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_QUOTES = {ord(quote): "'" for quote in "‘’‚‛′＇"} | {ord(quote): '"' for quote in "“”„‟″＂«»「」『』"}
_DASHES = dict.fromkeys(map(ord, "−–‒﹣－"), "-")
_MARKS = {
    **{ord("。"): ".", ord("、"): ",", ord("⁄"): "/", ord("∕"): "/", ord("×"): "\\times ", ord("·"): "\\cdot "},
    **{ord("【"): "[", ord("】"): "]", ord("〔"): "[", ord("〕"): "]", ord("⟨"): "(", ord("⟩"): ")"},
}
_ESCAPED = re.compile(r"\\([%$&#_])")
_CIRCLED = {0x2460 + place: f"({place + 1})" for place in range(20)}  # ① is option (1), no number
_INLINE = re.compile(r"(?<![\\$])\$(?![\s$])([^$\n]{1,200}?)(?<![\s\\])\$(?![\d$])|\\\((.{1,200}?)\\\)")
"""Mathematics inside a text; a dollar before a digit that no such span closes is money."""
_BULLET = re.compile(r"\A[-*•>]\s+(?=[^\W\d])")
_PAIRS = (
    *(("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("***", "***"), ("**", "**"), ("__", "__"), ("*", "*")),
    *(("`", "`"), ('"', '"'), ("'", "'"), ("<b>", "</b>"), ("<i>", "</i>"), ("<strong>", "</strong>")),
)
_MOST_ROUNDS = 8
LONGEST = 4096
"""Characters that `plain` works on; a longer answer is no short answer."""


def unified(text: str) -> str:
    """`text` in Unicode form NFKC, with one form of each quote, dash, full stop, bracket and space."""
    text = _SUPERSCRIPT.sub(lambda found: "^{" + found[0].translate(_SUPERSCRIPTS) + "}", _VULGAR.sub(" ", text))
    text = text.translate(_CIRCLED).translate(_QUOTES).translate(_DASHES).translate(_MARKS)
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES).translate(_DASHES).translate(_MARKS)
    return _INVISIBLE.sub("", _SPACES.sub(lambda found: "" if found[0] == "\\!" else " ", text))


def unfenced(text: str) -> str:
    """`text` without the lines that open and close code fences."""
    return _FENCE.sub("", text) if "```" in text or "~~~" in text else text


def plain(text: str) -> str:
    """What `text` says without its dress, on one line; its case stays. Empty for text longer than `LONGEST`."""
    if len(text) > LONGEST:
        return ""
    text = unified(unfenced(text)).replace("{,}", ",")
    for _ in range(_MOST_ROUNDS):
        before = text
        text = _BARE_COMMANDS.sub("", _WRAPPERS.sub(r"\1", text))
        text = _INLINE.sub(lambda found: found[1] or found[2], _unpaired(text.strip()))
        if text == before:
            break
    return " ".join(_ESCAPED.sub(r"\1", text).split())


def _unpaired(text: str) -> str:
    """`text` without one pair of marks around all of it, and without emphasis around the start of it."""
    for opening, closing in _PAIRS:
        inside = text[len(opening) : -len(closing)]
        around = text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing)
        if around and opening not in inside:
            return inside.strip()
    return text.replace("**", "").replace("`", "")


def comparable(text: str) -> str:
    """`plain` text, case folded, without a list's mark or a full stop: for verifiers that compare words."""
    said = _BULLET.sub("", plain(text))
    return said.rstrip(".!").strip().casefold() or said.casefold()


_OPPOSITES = {
    "yes": "no",
    "no": "yes",
    "true": "false",
    "false": "true",
    "是": "否",
    "否": "是",
    "对": "错",
    "错": "对",
}


def same_words(answer: str, truth: str) -> bool:
    """Whether two texts are `comparable`; where the truth is yes or no, an answer may go on after it and a comma."""
    said, wanted = comparable(answer), comparable(truth)
    if said == wanted or wanted not in _OPPOSITES:
        return said == wanted
    words = re.findall(r"\w+|[^\w\s]", said)
    return words[:1] == [wanted] and "".join(words[1:2]) in tuple(",.;:!") and _OPPOSITES[wanted] not in words
