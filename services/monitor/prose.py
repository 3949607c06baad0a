"""Answers as people read them: markdown as clean HTML, LaTeX left as text for the page to draw.

What a model writes is hostile. Raw HTML in it stays text, links and images are not made, and a sanitizer (nh3, the
browser's rules in Rust) has the last word on what is left.
"""

import html
import re
from collections.abc import Sequence

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath import texmath_plugin

MAX_LETTERS = 20_000
"""A longer text is shown as it is: nobody reads it as prose."""

_INSIDE_A_LINE = re.compile(r"(\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})|\\\[((?:(?!\\\[)[\s\S]){1,2000}?)\\\]")
"""An answer's box outside of dollar signs, braces nested twice at most; and a display formula within a line."""
_TAGS = {"p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "span", "div"} | {
    *("h1", "h2", "h3", "h4", "h5", "h6"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
_CLASSES = {"span": {"math"}, "div": {"math"}}


def to_html(text: str) -> str:
    """`text` as HTML of harmless tags; formulas are `<span class="math">` (inline) or `<div class="math">`."""
    if len(text) > MAX_LETTERS:
        return f"<pre>{html.escape(text)}</pre>"
    return nh3.clean(_READER.render(text), tags=_TAGS, attributes={"ol": {"start"}}, allowed_classes=_CLASSES)


def _inside_a_line(state: StateInline, silent: bool) -> bool:
    found = _INSIDE_A_LINE.match(state.src, state.pos)
    if found is None:
        return False
    if not silent:
        state.push("math_inline", "math", 0).content = found[1] or found[2]
    state.pos = found.end()
    return True


def _inline(_: object, tokens: Sequence[Token], index: int, *__: object) -> str:
    return f'<span class="math">{html.escape(tokens[index].content)}</span>'


def _block(_: object, tokens: Sequence[Token], index: int, *__: object) -> str:
    return f'<div class="math">{html.escape(tokens[index].content)}</div>'


def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    reader.disable(["link", "image", "autolink", "reference", "html_inline", "html_block"])
    reader.use(dollarmath_plugin, allow_digits=False, double_inline=True).use(texmath_plugin, delimiters="brackets")
    reader.inline.ruler.before("escape", "inside-a-line", _inside_a_line)
    for name in ("math_inline", "math_single"):
        reader.add_render_rule(name, _inline)
    for name in ("math_inline_double", "math_block", "math_block_label", "math_block_eqno"):
        reader.add_render_rule(name, _block)
    return reader


_READER = _reader()
