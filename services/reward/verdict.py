"""What a verifier is given beside the completion, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec

from shared.errors import TriuneError
from shared.messages import RewardSpec


class VerifierError(TriuneError):
    """This sample cannot be scored, and never will be; the text says why in one sentence."""


class Context(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where and when a completion was made.

    `resized` and `original` hold (width, height) in pixels, one an image: as the model saw it, and as it is stored.
    `convention` is what the model's family writes for a box, empty where that is not known.
    `progress` is training progress, step / total_steps; 0 before the first step.
    """

    resized: list[tuple[float, float]] = []
    original: list[tuple[float, float]] = []
    progress: float = 0.0
    convention: str = ""


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One completion to judge; `deadline_s` is the time it may take.

    `checked`: parameters, weights and truth are tested first; false for V-Triune's own requests, as its server does.
    `question` and `images` (encoded) are for a judge, and empty for every other verifier.
    """

    completion: str
    spec: RewardSpec
    context: Context = Context()
    deadline_s: float = 10.0
    checked: bool = True
    question: str = ""
    images: list[bytes] = []


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's answer: `accuracy` and `format` in [0, 1], and in `parts` every metric it has, by name."""

    accuracy: float
    format: float
    parts: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
