"""Answers as HTML: markdown and formulas in it, nothing else of what a model has written."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.prose import MAX_LETTERS, to_html


def test_markdown_becomes_html_and_formulas_keep_their_latex() -> None:
    html = to_html("**Half** of $\\frac{3}{2}$:\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n$$x\n- y$$")
    assert '<strong>Half</strong> of <span class="math">\\frac{3}{2}</span>' in html
    assert "<td>1</td>" in html
    assert '<div class="math">x\n- y</div>' in html


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("so \\boxed{\\frac{3}{4}} it is", "\\boxed{\\frac{3}{4}}"),
        ("so \\(x < 2\\) holds", "x &lt; 2"),
        ("\\[\nx\n\\]", "\nx\n"),
        ("it is \\[y\\]", "y"),
        ("it is $$z$$", "z"),
    ],
)
def test_a_formula_is_found_between_every_pair_of_signs_that_models_use(text: str, formula: str) -> None:
    assert f'class="math">{formula}</' in to_html(text)


def test_money_is_no_formula() -> None:
    assert "math" not in to_html("from $5 to $6")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1))",
        "![a](https://example.org/a.png)",
        "<https://example.org>",
        "$<img src=x onerror=alert(1)>$",
        "[a]: https://example.org\n\n[a]",
        "```<script>\n</script>\n```",
    ],
)
def test_hostile_markdown_makes_no_link_no_image_and_no_script(text: str) -> None:
    assert set(re.findall(r"<([a-z]+)", to_html(text))) <= {"p", "span", "pre", "code", "br"}


@given(st.text(alphabet="ab<>/&\"'`*_~$\\{}[]()!|-+#\n \t:=.01", max_size=300))
def test_every_tag_is_one_that_was_asked_for_and_has_no_attribute_but_its_class(text: str) -> None:
    for tag in re.findall(r"<[^>]*>", to_html(text)):
        assert re.fullmatch(r'</?[a-z0-9]+>|<(span|div) class="math">|<ol start="\d+">', tag), tag


def test_a_text_that_nobody_reads_as_prose_is_shown_as_it_is() -> None:
    assert to_html("*" * (MAX_LETTERS + 1)) == f"<pre>{'*' * (MAX_LETTERS + 1)}</pre>"
