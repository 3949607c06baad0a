"""The verifier against the library's own calls, as V-Triune makes them."""

from collections.abc import Callable

import pytest
from antlr4.IntervalSet import IntervalSet
from hypothesis import given, settings
from hypothesis import strategies as st
from latex2sympy2_extended import NormalizationConfig
from latex2sympy2_extended.antlr_parser import PSParser
from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Expr, srepr

from services.reward.math import algebra, quicker
from services.reward.math.remembering import forget
from services.reward.verdict import Context
from services.reward.verifiers import mathverify
from shared.messages import RewardSpec

_CONFIG = [
    LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            nits=False, malformed_operators=False, basic_latex=True, boxed="all", units=True
        ),
        boxed_match_priority=0,
        try_extract_without_anchor=False,
    )
]
_WORDS = ("12", "7", "007", "-3", "1/2", "cat", "the dog", "3.5", "\\text{a}", "{", "}", "{2}", "50%", "x=4", " ", "b.")
_PIECES = ("\\boxed{12}", "\\boxed{12", "\\boxed{cat}", "answer:", "<answer>", "\n", "final answer is", *_WORDS)
_ANSWERS = (
    "$",
    "\\(4\\)",
    "$4$",
    "[2]",
    "\\frac{1}{2}",
    "$\\boxed{4}$",
    "\\[ \\boxed{7} \\]",
    "the answer is $7$",
    "final answer is \\frac{1}{2}. I hope",
    "answer \\frac{1}{2}",
    "\\boxed{\\frac{1}{2}}",
)


def _library(completion: str, truth: str) -> float:
    gold = parse(truth.lower(), extraction_mode="first_match")
    answer = parse(completion.lower(), extraction_config=_CONFIG, extraction_mode="first_match")
    return float(bool(gold) and verify(gold, answer))


def _ours(completion: str, truth: str) -> float:
    spec = RewardSpec(verifier="mathverify", answer="", ground_truth=truth)
    return mathverify.score(completion, spec, Context()).accuracy


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=6).map(" ".join), st.sampled_from(_WORDS))
def test_a_text_without_mathematics_outside_boxes_is_read_as_the_library_reads_it(text: str, word: str) -> None:
    truth = f"\\boxed{{{word}}}"
    assert _ours(text, truth) == _library(text, truth)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(_PIECES + _ANSWERS), max_size=5).map(" ".join), st.sampled_from(_WORDS[:6]))
def test_any_text_is_read_as_the_library_reads_it(text: str, word: str) -> None:
    truth = f"\\boxed{{{word}}}"
    assert _ours(text, truth) == _library(text, truth)


@settings(max_examples=60, deadline=None)
@given(st.integers(-(10**6), 10**16), st.integers(0, 10**16), st.booleans())
def test_whole_numbers_compare_as_in_the_library(number: int, other: int, same: bool) -> None:
    completion, truth = f"<answer>\n\\boxed{{{number}}}\n</answer>", f"\\boxed{{{number if same else other}}}"
    assert _ours(completion, truth) == _library(completion, truth)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abcdeinostx -./:^_0123456789", min_size=1, max_size=8), st.sampled_from(_WORDS))
def test_short_answers_parse_as_in_the_library(content: str, word: str) -> None:
    completion = f"so \\boxed{{{content}}}"
    assert _ours(completion, f"\\boxed{{{word}}}") == _library(completion, f"\\boxed{{{word}}}")


_UNITS = [
    "\\text{ cm}",
    " \\text{cubes}",
    "\\text{and}",
    "\\text{ or }",
    "\\text{ percent}",
    "\\text{inf}",
    "\\text{x}",
    "\\%",
]
_PLAIN = st.one_of(
    st.tuples(st.sampled_from(["3", "0.5", "-2.50", "x"]), st.sampled_from(_UNITS)).map("".join),
    (st.integers(-(10**10), 10**10) | st.decimals(-(10**10), 10**10, places=3) | st.decimals(0, 9, places=1)).map(str),
    st.tuples(st.sampled_from(["", "-"]), st.integers(0, 10**9), st.integers(0, 99)).map(
        "{0[0]}\\frac{{{0[1]}}}{{{0[2]}}}".format
    ),
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=17),
    st.sampled_from(
        [
            "true",
            "north",
            "infinity",
            "inf",
            "percent",
            "or",
            "and",
            "eye",
            "rank",
            "tree",
            "red",
            "dog",
            "floor",
            "gcd",
            "e",
            "i",
            "pi",
            "0.5",
            "-0",
            "007",
            ".5",
            "1.",
        ]
    ),
)


@settings(max_examples=300, deadline=None)
@given(_PLAIN)
def test_plain_answers_are_read_as_the_library_reads_them(content: str) -> None:
    text = f"\\boxed{{{content}}}"
    answer = parse(text, extraction_config=_CONFIG, extraction_mode="first_match")
    assert [srepr(one) for one in algebra.read_part(text)] == [srepr(one) for one in answer]
    assert [getattr(one, "args", one) for one in algebra.read_part(text)] == [
        getattr(one, "args", one) for one in answer
    ]
    truth = parse(text, extraction_mode="first_match")
    assert [srepr(one) for one in algebra.read_truth(text)] == [srepr(one) for one in truth]


_NUMBERS = st.integers(0, 40).map(str) | st.integers(1, 400).map(lambda n: str(n / 8))
_FORMULAS = st.recursive(
    _NUMBERS | st.sampled_from(["x", "y", "e", "\\pi", "ab", "dog", "hello", "stop", "0", "12\\%", "x_1"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("\\frac{{{0[0]}}}{{{0[1]}}}".format),
        st.tuples(inner, inner).map("{0[0]}+{0[1]}".format),
        st.tuples(inner, inner).map("{0[0]} {0[1]}".format),
        inner.map("\\sqrt{{{0}}}".format),
        inner.map("({0})^2".format),
        inner.map("-{0}".format),
    ),
    max_leaves=3,
)


@settings(max_examples=250, deadline=None)
@given(_FORMULAS, _FORMULAS)
def test_what_is_certain_to_differ_differs_for_the_library(one: str, other: str) -> None:
    truth, answer = (algebra.read_answer(f"$\\boxed{{{text}}}$") for text in (one, other))
    if isinstance(truth[0], Expr) and isinstance(answer[0], Expr) and algebra._differ(truth[0], answer[0]):
        assert not verify(list(truth), list(answer))


@pytest.mark.parametrize(
    ("one", "other", "certain"),
    [
        ("dog", "cat", True),
        ("stop", "pots", False),
        ("2ab", "3ab", True),
        ("x+2", "x+3", True),
        ("x+2", "2+x", False),
        ("2\\sqrt{3}", "\\sqrt{12}", False),
        ("2\\sqrt{3}", "3\\sqrt{2}", True),
        ("0.333333", "\\frac{1}{3}", False),
        ("0.3333", "\\frac{1}{3}", False),  # 3e-5 apart: left to the library
        ("x", "y", False),  # lone symbols are compared by name
        ("0ab", "0cd", False),
    ],
)
def test_which_pairs_are_certain(one: str, other: str, certain: bool) -> None:
    truth, answer = (algebra.read_answer(f"\\boxed{{{text}}}")[0] for text in (one, other))
    assert algebra._differ(truth, answer) is certain


_NUMERALS = ("0", "120", "1.50", "1.", ".5", "00", "0.1234567890123456789", "9" * 30)


@pytest.mark.parametrize("text", ["2*x + sin(y)", "1/3", "max(2, 3)", "foo(x)", *_NUMERALS])
def test_sympy_reads_text_as_before(text: str) -> None:
    for transformations in quicker._NUMBERS_ALIKE:
        asked = (text, {}, transformations)
        assert srepr(quicker.parse_expr(*asked)) == srepr(quicker._parse_expr(*asked))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9))), st.integers(-2, 80))
def test_what_a_set_of_tokens_holds_is_what_its_intervals_hold(ranges: list[tuple[int, int]], item: int) -> None:
    tokens = IntervalSet()
    for start, length in ranges:
        tokens.addRange(range(start, start + length + 1))
    assert (item in tokens) == any(item in interval for interval in tokens.intervals or ())


_MORE = st.sampled_from(
    ["x=3", "(1,2)", "[1,2)", "1,2", "x<2", "\\sin x", "3!", "|x|", "x^2y", "\\log_2 8", "12:30", "{"]
)


@settings(max_examples=250, deadline=None)
@given(_FORMULAS | _MORE | st.tuples(_MORE, _FORMULAS).map(" ".join) | st.text("abdeinosx12+-^_{}(),=\\ ", max_size=8))
def test_two_stage_parsing_finds_what_the_library_finds(text: str) -> None:
    assert _reading(quicker.parse_latex, text) == _reading(_one_stage, text)


def _one_stage(converter: _Latex2Sympy, text: str) -> object:
    converter.quick = False
    return quicker._parse_latex(converter, text)


def _reading(parse_latex: Callable[[_Latex2Sympy, str], object], text: str) -> str:
    try:
        return srepr(parse_latex(_Latex2Sympy(is_real=True), text))
    except Exception as error:  # noqa: BLE001 — the library raises plain Exception
        return str(error)


def test_what_a_worker_forgets_it_learns_again_and_reads_as_before() -> None:
    texts = ("2x+\\frac{1}{3}", "x=3", "(1,2)", "{")
    before = [_reading(quicker.parse_latex, text) for text in texts]
    remembered = [algebra.read_truth(f"\\boxed{{{text}}}") for text in texts]
    assert _learned() > 0 and algebra.read_truth.cache_info().currsize >= len(texts)  # type: ignore[attr-defined]
    forget()
    assert _learned() == 0 and algebra.read_truth.cache_info().currsize == 0  # type: ignore[attr-defined]
    assert [algebra.read_truth(f"\\boxed{{{text}}}") for text in texts] == remembered
    assert [_reading(quicker.parse_latex, text) for text in texts] == before


def _learned() -> int:
    return sum(len(table._states) for table in PSParser.decisionsToDFA)


@pytest.mark.parametrize(("answer", "truth"), [("silent", "listen"), ("2017", "2023-05-01"), ("1,2", "2,1")])
def test_the_known_loopholes_are_the_original_s(answer: str, truth: str) -> None:
    assert _ours(f"\\boxed{{{answer}}}", f"\\boxed{{{truth}}}") == 1.0


def test_four_tags_make_the_format() -> None:
    spec = RewardSpec(verifier="mathverify", answer="", ground_truth="\\boxed{4}")
    text = "<think>\na\n</think>\n<answer>\n\\boxed{5}\n</answer>"
    assert mathverify.score(text, spec, Context()).format == 1.0
    assert mathverify.score(text.replace("\n", "\r\n"), spec, Context()).format == 0.25
