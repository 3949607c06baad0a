"""Samples that must not be scored: wrong parameters, weights, or a truth that is not right by its own verifier.

A truth that its verifier reads half, or not at all, would be a silent zero for every completion.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from services.reward.judging.registry import find
from services.reward.verdict import Context, VerifierError
from shared.answers.blocks import answer_body
from shared.messages import RewardSpec
from shared.samples.verifiers import SELF_JUDGED, filled_in, why_unusable

_ENOUGH = 1.0 - 1e-6
_TAGGED = "<think>\n\n</think>\n<answer>\n{}\n</answer>"


@dataclass(frozen=True, slots=True)
class _Checked:
    """The parameters with their defaults, or why there can be no verdict."""

    params: Mapping[str, object]
    problem: str = ""


def checked(spec: RewardSpec) -> RewardSpec:
    """`spec` with the defaults of its verifier's parameters; raises VerifierError when nothing may be scored."""
    key = msgspec.msgpack.encode(
        (spec.verifier, spec.ground_truth, spec.accuracy_ratio, spec.format_ratio, spec.params, spec.options)
    )
    found = _check(key)
    if found.problem:
        raise VerifierError(found.problem)
    return msgspec.structs.replace(spec, params=found.params) if found.params != spec.params else spec


_DECODER = msgspec.msgpack.Decoder(tuple[str, str, float, float, dict[str, object], dict[str, object]])


@lru_cache(maxsize=4096)
def _check(key: bytes) -> _Checked:
    verifier, truth, accuracy_ratio, format_ratio, params, options = _DECODER.decode(key)
    params = filled_in(verifier, params)
    spec = RewardSpec(verifier=verifier, answer="", ground_truth=truth, params=params, options=options)
    try:
        _check_weights(accuracy_ratio, format_ratio)
        problem = why_unusable(verifier, truth, params)
        if not problem and verifier in SELF_JUDGED:
            problem = _self_judged(spec)
    except VerifierError as error:
        problem = str(error)
    return _Checked(params, problem or "")


def _check_weights(accuracy_ratio: float, format_ratio: float) -> None:
    for name, value in (("accuracy_ratio", accuracy_ratio), ("format_ratio", format_ratio)):
        if not 0.0 <= value < float("inf"):
            raise VerifierError(f"{name} is {value}; expected a finite number of at least 0")


def _self_judged(spec: RewardSpec) -> str | None:
    """Why the truth, given as the answer, does not get 1.0; None when it does."""
    answer = spec.ground_truth if answer_body(spec.ground_truth) is not None else _TAGGED.format(spec.ground_truth)
    if spec.verifier == "mathverify" and "\\boxed" not in answer:
        answer = _TAGGED.format(f"\\boxed{{{answer_body(answer)}}}")
    own = msgspec.structs.replace(spec, options={**spec.options, "coordinates": "relative"})
    accuracy = find(spec.verifier, spec.options)(answer, own, Context()).accuracy
    if accuracy >= _ENOUGH:
        return None
    return (
        f"ground truth {spec.ground_truth[:200]!r} scores {accuracy:.3g} against itself by verifier {spec.verifier!r}, "
        "expected 1: it cannot be read whole"
    )
