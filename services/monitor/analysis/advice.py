"""The findings as a person wants them: one line a rule, the dearest first, with what to change.

What a line costs is the share of the run's recent groups that it concerns; a finding about the whole run costs all of
them. The texts of what helps are those of `docs/diagnostics.md`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from services.monitor.analysis.diagnostics import WINDOW, Curves, Finding
from services.monitor.analysis.timing import pace_s

Change = dict[str, int | float]
PATIENCE_S: Final = 120.0
PATIENCE_STEPS: Final = 5.0
"""A running job that makes no step for both `PATIENCE_S` and so many times its steps' length stands still."""


@dataclass(frozen=True)
class Line:
    """All findings of one rule. `changes` is a PATCH that may help; empty where no key can be changed while it runs."""

    rule: str
    level: Literal["note", "warning"]
    sentence: str
    helps: str
    series: str
    cost: float
    changes: Change
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """What of the job's settings the advice needs, as they hold now."""

    max_staleness: int
    weights: Mapping[str, float]  # by source; absent: 1


@dataclass(frozen=True)
class _Rule:
    title: str
    helps: str
    change: Callable[[Sequence[str], Settings], Change] = lambda sources, settings: {}
    of_mixture: bool = False  # the change is one of weights: it means nothing when it is every source's


def _halved(sources: Sequence[str], settings: Settings) -> Change:
    return {f"sources.{name}.weight": settings.weights.get(name, 1.0) / 2 for name in sources}


def _doubled(sources: Sequence[str], settings: Settings) -> Change:
    return {f"sources.{name}.weight": settings.weights.get(name, 1.0) * 2 for name in sources}


def _fresher(_: Sequence[str], settings: Settings) -> Change:
    return {"max_staleness": settings.max_staleness - 1} if settings.max_staleness > 0 else {}


RULES: Final[Mapping[str, _Rule]] = {
    "variance-collapse": _Rule(
        "nearly all groups have equal rewards and carry no gradient",
        "too easy or too hard: other samples, a lower weight, or algorithm.drop_uniform_groups",
        _halved,
        of_mixture=True,
    ),
    "format-dominates": _Rule("rewards differ by form and not by answers", "a smaller format_ratio in the data"),
    "wrong-length": _Rule(
        "wrong answers grow longer, correct ones do not",
        "a sign of instability: a lower optimizer.learning_rate; look at samples",
    ),
    "truncation": _Rule("completions are cut at the length limit", "a larger sampling.max_new_tokens"),
    "errors": _Rule("the verifier fails on completions", "the samples' errors say why"),
    "starved": _Rule(
        "fewer groups than its share of the mixture", "its voids say why; a higher weight", _doubled, of_mixture=True
    ),
    "stale": _Rule(
        "groups are older than those of other sources", "more rollout replicas, or a smaller max_staleness", _fresher
    ),
    "fall": _Rule("reward has fallen from its best", "the other findings of the source; its samples then and now"),
    "plateau": _Rule("reward has not risen for long", "the other findings of the source"),
    "held-out": _Rule("no held-out sample could be judged", "the reasons of the evaluation's voids; data.held_out"),
    "audit-components": _Rule(
        "audit: format tells good completions from bad ones", "a smaller format_ratio in the data"
    ),
    "audit-length": _Rule(
        "audit: the length has changed and accuracy has not", "look at long and short samples of then and now"
    ),
    "audit-gap": _Rule(
        "audit: training gains more than held-out samples do", "look at samples that are rewarded; more data"
    ),
    "audit-verifier": _Rule(
        "audit: an independent verifier finds less", "look at samples whose part `audit` is below their accuracy"
    ),
    "audit-alike": _Rule(
        "audit: different prompts are answered alike", "look at the answers that repeat; a stricter verifier"
    ),
    "entropy-collapse": _Rule("the policy hardly explores", "a larger algorithm.clip_high"),
    "gradient-jump": _Rule("the gradient norm jumps", "freeze that component (optimizer.freeze)"),
}


def advise(findings: Iterable[Finding], curves: Curves, settings: Settings) -> list[Line]:
    """One line a rule, warnings first, the dearest of them first."""
    by_rule: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        by_rule.setdefault((finding.rule, finding.level), []).append(finding)
    lines = [_line(found, curves, settings) for found in by_rule.values()]
    return sorted(lines, key=lambda line: (line.level != "warning", -line.cost, line.rule))


def _line(found: list[Finding], curves: Curves, settings: Settings) -> Line:
    first, rule = found[0], RULES[found[0].rule]
    sources = [finding.source for finding in found if finding.source]
    if len(found) == 1:
        sentence = first.sentence
    elif sources:
        sentence = f"{rule.title}: {len(sources)} of {len(curves.sources)} sources"
    else:
        sentence = f"{rule.title}, {len(found)} times"
    return Line(
        rule=first.rule,
        level=first.level,
        sentence=sentence,
        helps=rule.helps,
        series=first.series,
        cost=share_of_groups(curves, sources) if sources else 1.0,
        changes={} if rule.of_mixture and set(sources) == set(curves.sources) else rule.change(sources, settings),
        findings=found,
    )


def share_of_groups(curves: Curves, sources: Sequence[str]) -> float:
    """The share of the last window's groups that are of `sources`; 0 where nothing is known of groups."""
    everything = curves.of("groups", "")
    if not everything:
        return 0.0
    first = everything[-WINDOW:][0].step
    total = sum(point.value for point in everything if point.step >= first)
    own = sum(point.value for name in sources for point in curves.of("groups", name) if point.step >= first)
    return own / total if total else 0.0


def standstill(ends: Sequence[float], started_at: float, now: float) -> list[Line]:
    """A line when a running job makes no step; `ends` are the last steps' ends, all in seconds since the epoch."""
    pace = pace_s(ends) or 0.0
    idle = now - (ends[-1] if ends else started_at)
    if idle <= max(PATIENCE_S, PATIENCE_STEPS * pace):
        return []
    since = f"{idle / 60:.0f} min" if idle < 7200 else f"{idle / 3600:.0f} h"
    sentence = f"no step for {since}" + (f", where one takes {pace:.1f} s" if pace else "")
    return [Line("no-progress", "warning", sentence, "the services' states say what is waited for", "", 1.0, {})]
