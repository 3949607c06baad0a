"""One sample in, one reward out: where a verifier's errors become the verdict `verifier-error`."""

from services.reward.judging.compose import compose
from services.reward.judging.registry import find
from services.reward.judging.truths import checked
from services.reward.verdict import Sample, Verdict, VerifierError
from shared.messages import Reward, RewardSpec

_SLACK = 1e-9  # a mean of ones may be a little more than 1


def judge(sample: Sample) -> Reward:
    """The reward of `sample`; never raises for anything that the sample or its verifier does.

    An error keeps what was known before it (accuracy, format and parts when only the weights are wrong), for
    V-Triune's `/judge`, which reports those.
    """
    spec = sample.spec
    try:
        if sample.checked:
            spec = checked(spec)
        verdict = find(spec.verifier, spec.options)(sample.completion, spec, sample.context)
    except VerifierError as error:
        return failed(str(error))
    except MemoryError:
        return failed(f"verifier {spec.verifier!r} ran out of memory on this sample")
    except Exception as error:  # noqa: BLE001 — a verifier is anybody's code; its failure is this sample's verdict
        return failed(f"verifier {spec.verifier!r} failed: {type(error).__name__}: {error}"[:500])
    return reward_of(spec, verdict)


def reward_of(spec: RewardSpec, verdict: Verdict) -> Reward:
    """What a verdict is worth to the sample: a verifier-error when it is out of range, or the weights are wrong."""
    if (problem := _out_of_range(verdict)) is not None:
        return failed(f"verifier {spec.verifier!r} {problem}")
    parts = dict(verdict.parts)
    try:
        final = compose(verdict.accuracy, verdict.format, spec.accuracy_ratio, spec.format_ratio)
    except VerifierError as error:
        return Reward(
            status="verifier-error",
            accuracy=verdict.accuracy,
            format=verdict.format,
            parts=parts,
            error=str(error),
        )
    return Reward(status="ok", final=final, accuracy=verdict.accuracy, format=verdict.format, parts=parts)


def _out_of_range(verdict: Verdict) -> str | None:
    """What is wrong with a verdict; a reward must not depend on what a verifier of somebody else lets through."""
    for name, value in (("accuracy", verdict.accuracy), ("format", verdict.format)):
        if not -_SLACK <= value <= 1.0 + _SLACK:
            return f"gave an {name} of {value}; expected a number from 0 to 1"
    return None


def failed(reason: str) -> Reward:
    """The verdict on a sample that could not be scored, and why."""
    return Reward(status="verifier-error", error=reason)
