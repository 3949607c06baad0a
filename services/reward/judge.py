"""One sample in, one reward out: where a verifier's errors become the verdict `verifier-error`."""

from services.reward.compose import compose
from services.reward.registry import find
from services.reward.verdict import Sample, VerifierError
from shared.messages import Reward


def judge(sample: Sample) -> Reward:
    """The reward of `sample`; never raises for anything that the sample or its verifier does.

    An error keeps what was known before it (accuracy, format and parts when only the weights are wrong), for
    V-Triune's `/judge`, which reports those.
    """
    spec = sample.spec
    try:
        verdict = find(spec.verifier)(sample.completion, spec, sample.context)
    except VerifierError as error:
        return failed(str(error))
    except MemoryError:
        return failed(f"verifier {spec.verifier!r} ran out of memory on this sample")
    except Exception as error:  # noqa: BLE001 — a verifier is anybody's code; its failure is this sample's verdict
        return failed(f"verifier {spec.verifier!r} failed: {type(error).__name__}: {error}"[:500])
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


def failed(reason: str) -> Reward:
    """The verdict on a sample that could not be scored, and why."""
    return Reward(status="verifier-error", error=reason)
