"""The names of the verifiers: what a sample may ask for; the reward service has one file for each built-in one."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

VERIFIERS: Mapping[str, str] = MappingProxyType(
    {
        "mathverify": "symbolic equality of the boxed answer, by the math-verify library (V-Triune)",
        "detection": "boxes with labels: matched IoU, completeness and mAP, under a size penalty (V-Triune)",
        "exact": "the final answer equals the ground truth after Unicode, case and space normalisation",
        "anls": "1 minus the normalised edit distance of the final answer, 0 from a distance of 0.5 (OCR)",
        "numeric": "the final number equals the ground truth within a tolerance",
        "choice": "the final answer names the right option letter",
        "count": "the final answer is the right whole number, in digits or in words",
        "iou": "the IoU of one box with the ground truth, 0 below a threshold (V-Triune's paper, equation 5)",
        "format": "only the think and answer tags",
        "composite": "a weighted mean of other verifiers, with the weights that the sample names",
    }
)
"""Name → what it judges, in one line, of the built-in ones."""

ENTRY_POINTS = "triune.verifiers"
"""The entry point group through which another package adds a verifier."""


@cache
def known_verifiers() -> Mapping[str, str]:
    """Name → what it judges (an added one: where it comes from), of every verifier that a sample may ask for here."""
    added = {entry.name: f"added by {entry.value}" for entry in entry_points(group=ENTRY_POINTS)}
    return MappingProxyType({**added, **VERIFIERS})
