"""The series of a step as they are defined: group by group and answer by answer, in no hurry.

`services.monitor.values.series` makes the same values column by column.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from services.monitor.values.facts import said, weights_of
from services.monitor.values.where import ALL, Where
from services.monitor.values.words import count_words
from shared.messages import Completion, Reward, Scored


@dataclass
class Mean:
    """A ratio whose parts are added up."""

    total: float = 0.0
    count: float = 0.0


@dataclass
class Values:
    """What is known of one set of groups."""

    means: dict[str, Mean] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    staleness_max: int | None = None

    def mean(self, name: str, value: float, count: float = 1) -> None:
        found = self.means.setdefault(name, Mean())
        found.total += value
        found.count += count

    def by_name(self) -> dict[str, float]:
        most = {} if self.staleness_max is None else {"staleness_max": self.staleness_max}
        return {name: mean.total / mean.count for name, mean in self.means.items()} | dict(self.totals) | most


def values_by_set(groups: Sequence[Scored], staleness: Sequence[int] | None = None) -> dict[Where, dict[str, float]]:
    """Every value of every set that the groups belong to."""
    found: dict[Where, Values] = {}
    together: dict[Where, list[Scored]] = {}
    for index, scored in enumerate(groups):
        source, task = scored.prompt.source, scored.prompt.task
        for where in {Where(source=source), Where(task=task), ALL}:
            _add(found.setdefault(where, Values()), scored, None if staleness is None else staleness[index])
        together.setdefault(Where(source, task), []).append(scored)
    for where, some in together.items():
        for wider in {Where(source=where.source), Where(task=where.task), ALL}:
            _alike(found[wider], some)
    return {where: values.by_name() for where, values in found.items()}


def _add(values: Values, scored: Scored, staleness: int | None) -> None:
    group, prompt = scored.group, scored.prompt
    values.totals["groups"] += 1
    values.mean("prompt_length", len(group.prompt_ids) // 4)
    values.mean("wait/queue", max(0.0, group.started_at - (prompt.published_at or group.started_at)))
    values.mean("wait/generate", max(0.0, group.finished_at - group.started_at))
    values.mean("wait/transit", max(0.0, scored.started_at - group.finished_at))
    values.mean("wait/score", max(0.0, scored.finished_at - scored.started_at))
    if staleness is not None:
        values.mean("staleness", staleness)
        values.staleness_max = max(staleness, values.staleness_max or 0)
    judged = [reward for reward in scored.rewards if reward.ok]
    for completion, reward in zip(group.completions, scored.rewards, strict=True):
        _answer(values, completion, reward, is_correct(prompt.reward.verifier, reward))
    if len(judged) >= 2:
        _spread(values, judged)
        _components(values, judged, weights_of(prompt.reward))


def is_correct(verifier: str, reward: Reward) -> bool:
    """Whether an answer counts as correct; never after a verifier error."""
    parts = {name.removesuffix("_reward"): value for name, value in reward.parts.items()}
    if verifier == "detection":
        matched = parts.get("report_iou_50_label_match_precision"), parts.get("report_iou_50_label_match_recall")
        return reward.ok and matched == (1.0, 1.0)
    if verifier == "iou":
        return reward.ok and max(parts.get("iou", 0.0), reward.accuracy) >= 0.5
    return reward.ok and reward.accuracy == 1.0


def _answer(values: Values, completion: Completion, reward: Reward, right: bool) -> None:
    words, cut = count_words(completion.text), completion.finish == "length"
    values.mean("response_length", completion.num_tokens)
    values.mean("truncation", cut)
    values.mean("error_rate", not reward.ok)
    values.totals.update({f"reflection_words/{word}": count for word, count in words.items()})
    if not reward.ok:
        return
    values.mean("reward", reward.final)
    values.mean("accuracy", reward.accuracy)
    values.mean("format", reward.format)
    parts = _parts(reward)
    for name, value in parts.items():
        values.mean(f"part/{name}", value)
    if "audit" in parts:
        values.mean("audit/accuracy", parts["audit"])
        values.mean("audit/gap", reward.accuracy - parts["audit"])
    kind = "correct" if right else "wrong"
    values.mean("correct", right)
    values.mean("reflection", bool(words))
    values.mean(f"response_length_{kind}", completion.num_tokens)
    values.mean(f"truncation_{kind}", cut)
    values.mean(f"reflection_{kind}", bool(words))
    values.mean(f"correct_{'with' if words else 'without'}_reflection", right)


def _spread(values: Values, judged: Sequence[Reward]) -> None:
    rewards, accuracies = [reward.final for reward in judged], [reward.accuracy for reward in judged]
    varies = max(rewards) - min(rewards) > 1e-6
    deviation = math.sqrt(fmean((reward - fmean(rewards)) ** 2 for reward in rewards))
    values.mean("reward_std", deviation if varies else 0.0)
    values.mean("zero_variance", not varies)
    values.mean("format_only", varies and max(accuracies) - min(accuracies) <= 1e-6)


def _components(values: Values, judged: Sequence[Reward], weights: dict[str, float]) -> None:
    """Cov(w·x, r) of each part x, over Var(r)."""
    rewards = [reward.final for reward in judged]
    variance = sum((reward - fmean(rewards)) ** 2 for reward in rewards)
    if variance <= 1e-12:
        return
    for name, weight in weights.items():
        own = [weight * _part(reward, name) for reward in judged]
        shared = sum((x - fmean(own)) * (r - fmean(rewards)) for x, r in zip(own, rewards, strict=True))
        values.mean(f"component/{name}", shared, variance)


def _part(reward: Reward, name: str) -> float:
    if name in ("accuracy", "format"):
        return float(getattr(reward, name))
    return _parts(reward).get(f"{name}.accuracy", 0.0)


def _parts(reward: Reward) -> dict[str, float]:
    return {name.removesuffix("_reward"): value for name, value in reward.parts.items() if math.isfinite(value)}


def _alike(values: Values, groups: Sequence[Scored]) -> None:
    answers = [[said(completion.text) for completion in scored.group.completions] for scored in groups]
    for name, by_group in (
        ("answers_alike", answers),
        ("truths_alike", [[said(scored.prompt.reward.ground_truth)] for scored in groups]),
    ):
        pairs = [
            one == other
            for index, some in enumerate(by_group)
            for others in by_group[index + 1 :]
            for one in some
            for other in others
        ]
        if pairs:
            values.mean(name, sum(pairs), len(pairs))


def error_rates(groups: Iterable[Scored]) -> dict[str, float]:
    """Share of completions without a verdict, by verifier."""
    found: dict[str, list[bool]] = {}
    for scored in groups:
        found.setdefault(scored.prompt.reward.verifier, []).extend(not reward.ok for reward in scored.rewards)
    return {verifier: fmean(failed) for verifier, failed in found.items() if failed}
