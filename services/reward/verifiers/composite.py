"""Several verifiers together: the weighted mean of their accuracies, and of their formats.

The sample's parameter `verifiers` lists them: `[{"name": "anls", "weight": 0.7, "params": {…}}, …]`; a weight is above
0 (default 1), `params` go to that verifier. Accuracy and format are Σ w·value / Σ w, in [0, 1] when theirs are. `parts`
holds `<name>.accuracy`, `<name>.format` and each part as `<name>.<part>`. Raises VerifierError for a wrong list, a
composite, judge or python in a composite, the same name twice, and for whatever one of its members raises it.
"""

from collections.abc import Mapping

import msgspec

from services.reward.judging.registry import find
from services.reward.judging.truths import checked
from services.reward.verdict import Context, Verdict, VerifierError
from shared.messages import RewardSpec

_ALONE = frozenset(("composite", "judge", "python"))
"""Verifiers that are no member of a composite: the workers, which judge that, run neither a judge nor programs."""


class _Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    weight: float = 1.0
    params: dict[str, object] = {}


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict of the members that `spec.params` lists."""
    members = _members(spec.params)
    total = sum(member.weight for member in members)
    accuracy = form = 0.0
    parts: dict[str, float] = {}
    for member in members:
        own = checked(msgspec.structs.replace(spec, verifier=member.name, params=member.params))
        verdict = find(member.name, spec.options)(completion, own, context)
        accuracy += verdict.accuracy * member.weight / total
        form += verdict.format * member.weight / total
        parts |= {f"{member.name}.accuracy": verdict.accuracy, f"{member.name}.format": verdict.format}
        parts |= {f"{member.name}.{part}": value for part, value in verdict.parts.items()}
    return Verdict(accuracy, form, parts)


def _members(params: Mapping[str, object]) -> list[_Member]:
    try:
        members = msgspec.convert(params.get("verifiers"), list[_Member])
    except msgspec.ValidationError as error:
        raise VerifierError(f"the composite's `verifiers` is wrong: {error}") from error
    names = [member.name for member in members]
    if not names or not _ALONE.isdisjoint(names) or len(set(names)) < len(names):
        raise VerifierError(
            f"the composite names {names}; expected verifiers, each once, and none of {', '.join(sorted(_ALONE))}"
        )
    if any(not 0.0 < member.weight < float("inf") for member in members):
        raise VerifierError(f"the composite's weights are {[m.weight for m in members]}; expected numbers above 0")
    return members
