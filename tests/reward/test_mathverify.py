"""The verifier against the library's own calls, as V-Triune makes them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

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
_ANSWERS = ("$", "\\(4\\)", "$4$", "[2]", "\\frac{1}{2}", "$\\boxed{4}$", "\\[ \\boxed{7} \\]", "the answer is $7$")


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


@pytest.mark.parametrize(("answer", "truth"), [("silent", "listen"), ("2017", "2023-05-01"), ("1,2", "2,1")])
def test_the_known_loopholes_are_the_original_s(answer: str, truth: str) -> None:
    assert _ours(f"\\boxed{{{answer}}}", f"\\boxed{{{truth}}}") == 1.0


def test_four_tags_make_the_format() -> None:
    spec = RewardSpec(verifier="mathverify", answer="", ground_truth="\\boxed{4}")
    text = "<think>\na\n</think>\n<answer>\n\\boxed{5}\n</answer>"
    assert mathverify.score(text, spec, Context()).format == 1.0
    assert mathverify.score(text.replace("\n", "\r\n"), spec, Context()).format == 0.25
