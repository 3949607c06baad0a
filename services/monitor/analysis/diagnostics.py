"""Why a source stopped improving: plain sentences, each from a formula over the run's own series.

`docs/diagnostics.md` states every formula. A window is the last `WINDOW` steps of a series; a rule says nothing before
there are `WINDOW` steps.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, pvariance
from typing import Final, Literal, NamedTuple

WINDOW: Final = 20
ZERO_VARIANCE: Final = 0.9
FORMAT_ONLY: Final = 0.5
WRONG_GROWTH: Final = 1.5
CORRECT_GROWTH: Final = 1.2
ENTROPY_LEFT: Final = 0.2
GRADIENT_JUMP: Final = 10.0
STARVED: Final = 0.25
STALE: Final = 0.5
ERRORS: Final = 0.01
TRUNCATED: Final = 0.3
PLATEAU_STEPS: Final = 40
PLATEAU_GAIN: Final = 0.01
SOLVED: Final = 0.95
FALL: Final = 0.1
FALL_ERRORS: Final = 4.0


class At(NamedTuple):
    """A value at a step."""

    step: int
    value: float


Curve = Sequence[At]


@dataclass(frozen=True)
class Finding:
    """One sentence; `source` is empty when it is about all of them, `series` is the curve that shows it."""

    rule: str
    source: str
    step: int
    level: Literal["note", "warning"]
    sentence: str
    series: str


class Curves(NamedTuple):
    """The series that the rules read: by name, then by source ("" for all of them)."""

    by_name: Mapping[str, Mapping[str, Curve]]

    def of(self, name: str, source: str) -> Curve:
        return self.by_name.get(name, {}).get(source, ())

    @property
    def sources(self) -> list[str]:
        return sorted({source for curves in self.by_name.values() for source in curves} - {""})


NEEDED: Final = (
    "reward",
    "zero_variance",
    "format_only",
    "response_length_wrong",
    "response_length_correct",
    "truncation",
    "error_rate",
    "staleness",
    "groups",
    "accuracy",
    "response_length",
    "component/format",
    "eval/reward",
    "eval/groups",
    "eval/void",
    "audit/gap",
    "answers_alike",
    "truths_alike",
    "learner/entropy",
    "learner/grad_norm",
    "learner/grad_norm/vit",
    "learner/grad_norm/connector",
    "learner/grad_norm/llm",
)
"""Series that `diagnose` reads."""


def diagnose(curves: Curves) -> list[Finding]:
    """Every finding, warnings first, then by source."""
    found = [finding for source in curves.sources for rule in _SOURCE_RULES for finding in rule(curves, source)]
    found += [finding for rule in _RUN_RULES for finding in rule(curves)]
    return sorted(found, key=lambda finding: (finding.level != "warning", finding.source, finding.rule))


def recent(curve: Curve) -> float | None:
    """Mean of the last window; None while the curve is shorter than that."""
    return fmean(point.value for point in curve[-WINDOW:]) if len(curve) >= WINDOW else None


def first(curve: Curve) -> float:
    return fmean(point.value for point in curve[:WINDOW])


def _since(curve: Curve, holds: Callable[[float], bool]) -> int:
    """The first step of the last unbroken stretch in which the mean of five steps holds."""
    start = curve[-1].step
    for index in range(len(curve), 4, -1):
        if not holds(fmean(point.value for point in curve[index - 5 : index])):
            break
        start = curve[index - 5].step
    return start


def _variance_collapse(curves: Curves, source: str) -> Iterator[Finding]:
    curve = curves.of("zero_variance", source)
    share = recent(curve)
    if share is not None and share >= ZERO_VARIANCE:
        step = _since(curve, lambda value: value >= ZERO_VARIANCE)
        text = f"{source}: {share:.0%} of groups have zero variance since step {step}; they carry no gradient"
        yield Finding("variance-collapse", source, step, "warning", text, "zero_variance")


def _format_dominates(curves: Curves, source: str) -> Iterator[Finding]:
    curve = curves.of("format_only", source)
    share = recent(curve)
    if share is not None and share >= FORMAT_ONLY:
        step = _since(curve, lambda value: value >= FORMAT_ONLY)
        text = (
            f"{source}: in {share:.0%} of groups only the format differs since step {step}; "
            "the advantage rewards form, not answers"
        )
        yield Finding("format-dominates", source, step, "warning", text, "format_only")


def _wrong_length(curves: Curves, source: str) -> Iterator[Finding]:
    wrong, right = curves.of("response_length_wrong", source), curves.of("response_length_correct", source)
    now = recent(wrong)
    if now is None or len(wrong) < 2 * WINDOW:
        return
    growth = now / max(first(wrong), 1e-9)
    right_growth = (recent(right) or 0.0) / max(first(right), 1e-9) if right else 0.0
    if growth >= WRONG_GROWTH and right_growth < CORRECT_GROWTH:
        text = (
            f"{source}: wrong answers are {growth:.1f} times as long as at the start ({now:.0f} tokens); "
            "correct ones are not"
        )
        yield Finding("wrong-length", source, wrong[-1].step, "warning", text, "response_length_wrong")


def _truncation(curves: Curves, source: str) -> Iterator[Finding]:
    curve = curves.of("truncation", source)
    share = recent(curve)
    if share is not None and share >= TRUNCATED:
        text = f"{source}: {share:.0%} of completions are cut at the length limit"
        yield Finding("truncation", source, curve[-1].step, "warning", text, "truncation")


def _errors(curves: Curves, source: str) -> Iterator[Finding]:
    curve = curves.of("error_rate", source)
    share = recent(curve)
    if share is not None and share > ERRORS:
        text = f"{source}: the verifier fails on {share:.1%} of completions"
        yield Finding("errors", source, curve[-1].step, "warning", text, "error_rate")


def _starved(curves: Curves, source: str) -> Iterator[Finding]:
    """The source's share of the groups of the last window against its share of the whole run."""
    own, everything = curves.of("groups", source), curves.of("groups", "")
    if len(everything) < 2 * WINDOW:
        return
    begins = everything[-WINDOW].step
    recent = sum(point.value for point in own if point.step >= begins)
    overall = sum(point.value for point in own) / sum(point.value for point in everything)
    expected = overall * sum(point.value for point in everything[-WINDOW:])
    if expected >= 4 and recent <= STARVED * expected:
        text = (
            f"{source}: {recent:.0f} groups in the last {WINDOW} steps, "
            f"where its share of the run would be {expected:.0f}"
        )
        yield Finding("starved", source, everything[-1].step, "warning", text, "groups")


def _stale(curves: Curves, source: str) -> Iterator[Finding]:
    own, everything = recent(curves.of("staleness", source)), recent(curves.of("staleness", ""))
    if own is not None and everything is not None and own - everything >= STALE:
        step = curves.of("staleness", source)[-1].step
        text = f"{source}: its groups are {own:.1f} versions old on average, those of all sources {everything:.1f}"
        yield Finding("stale", source, step, "note", text, "staleness")


def _fall(curves: Curves, source: str) -> Iterator[Finding]:
    """The best window against the last one; the best of many noisy windows lies high by chance, hence the errors."""
    curve = curves.of("reward", source)
    if len(curve) < 3 * WINDOW:
        return
    values = [point.value for point in curve]
    ends = range(WINDOW, len(curve) + 1)
    best = max(ends, key=lambda end: sum(values[end - WINDOW : end]))
    top, last = values[best - WINDOW : best], values[-WINDOW:]
    error = math.sqrt((pvariance(top) + pvariance(last)) / WINDOW)
    if fmean(top) - fmean(last) >= max(FALL, FALL_ERRORS * error):
        step = curve[best - 1].step
        text = f"{source}: reward has fallen to {fmean(last):.2f} from {fmean(top):.2f} at step {step}"
        yield Finding("fall", source, step, "warning", text, "reward")


def _plateau(curves: Curves, source: str) -> Iterator[Finding]:
    curve = curves.of("reward", source)
    if len(curve) < 2 * PLATEAU_STEPS:
        return
    values = [point.value for point in curve]
    before, now = fmean(values[-2 * PLATEAU_STEPS : -PLATEAU_STEPS]), fmean(values[-PLATEAU_STEPS:])
    if now < SOLVED and abs(now - before) < PLATEAU_GAIN:
        text = f"{source}: reward has not risen in the last {PLATEAU_STEPS} steps; it stays at {now:.2f}"
        yield Finding("plateau", source, curve[-PLATEAU_STEPS].step, "note", text, "reward")


def _entropy_collapse(curves: Curves) -> Iterator[Finding]:
    curve = curves.of("learner/entropy", "")
    now = recent(curve)
    if now is None or len(curve) < 2 * WINDOW:
        return
    start = first(curve)
    if now <= ENTROPY_LEFT * start:
        text = f"entropy has fallen to {now / start:.0%} of its start ({now:.3f} nats): the policy hardly explores"
        yield Finding("entropy-collapse", "", curve[-1].step, "warning", text, "learner/entropy")


def _gradient_jump(curves: Curves) -> Iterator[Finding]:
    for part in ("vit", "connector", "llm"):
        name = f"learner/grad_norm/{part}"
        curve = curves.of(name, "")
        if len(curve) < WINDOW:
            continue
        usual = median(point.value for point in curve[:-5])
        now = fmean(point.value for point in curve[-5:])
        if usual > 0 and now >= GRADIENT_JUMP * usual:
            text = f"the gradient norm of the {part} is {now:.3g}, {now / usual:.0f} times its median"
            yield Finding("gradient-jump", "", curve[-1].step, "warning", text, name)


_SOURCE_RULES: Final = (
    _variance_collapse,
    _format_dominates,
    _wrong_length,
    _truncation,
    _errors,
    _starved,
    _stale,
    _fall,
    _plateau,
)


def _held_out(curves: Curves) -> Iterator[Finding]:
    """An evaluation of which nothing is left."""
    voids, judged = curves.of("eval/void", ""), curves.of("eval/groups", "")
    if voids and not (judged and judged[-1].step >= voids[-1].step):
        text = f"none of {voids[-1].value:.0f} held-out samples could be judged"
        yield Finding("held-out", "", voids[-1].step, "warning", text, "eval/void")


_RUN_RULES: Final = (_entropy_collapse, _gradient_jump, _held_out)
