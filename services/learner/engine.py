"""What the learner's flow needs from a training engine; implementations are in `services/learner/engines`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from services.learner.attention.batch import Ready
from shared.jobs.spec import JobSpec
from shared.messages import Scored


@dataclass(frozen=True)
class StepResult:
    """What one training step measured: `metrics` by name, `seconds` by part of the step, tokens trained on."""

    metrics: dict[str, float]
    seconds: dict[str, float]
    num_response_tokens: int
    updates: int
    skipped: int


class Engine(Protocol):
    """A model under training; everything but `ingest` is called from one thread at a time."""

    def load(self, spec: JobSpec) -> dict[str, object]:
        """Load the job's model; facts for the log come back (device, type, attention, trained parameters).

        Raises BadJob: no such model, or one that this engine cannot train.
        """
        ...

    def ingest(self, group: Scored, image_bytes: Sequence[bytes]) -> Ready:
        """Check a group and turn it into arrays, its images into pixels; may run in another thread beside a step.

        `image_bytes` are the encoded images in the order of the prompt's. Raises BadSample when the group can never
        be trained on: an image that cannot be decoded, placeholders that do not match the images, a banned token.
        """
        ...

    def step(self, groups: Sequence[Ready], *, step: int, total_steps: int, importance: bool) -> StepResult:
        """Make the job's `updates_per_step` optimizer updates on `groups`; training step `step` counts from 1.

        `importance`: weigh tokens by truncated importance weights. Raises Diverged when the gradient was not finite
        in ten updates in a row.
        """
        ...

    def weights(self, *, trainable_only: bool) -> dict[str, Tensor]:
        """Contiguous copies on the CPU in the published type, by state-dict name; tied tensors once."""
        ...

    def save(self, folder: Path) -> None:
        """Write `model/`, a Hugging Face folder, and all the rest that `restore` needs, as files into `folder`."""
        ...

    def restore(self, folder: Path) -> None:
        """Continue with the bits that `save` wrote, after `load`; raises Corrupt when they are not this job's."""
        ...
