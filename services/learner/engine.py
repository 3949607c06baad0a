"""What the learner's flow needs from a training engine; implementations are in `services/learner/engines`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from services.learner.attention.batch import Ready
from shared.errors import TriuneError
from shared.jobs.spec import JobSpec
from shared.messages import Scored

Scope = Literal["frozen", "trained"]
"""The tensors that training never changes, or all others."""
SCOPES: tuple[Scope, ...] = ("frozen", "trained")
Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Published type and shape of every tensor that is exported."""
Facts = dict[str, str | int | float]
"""For log and report: device, type, attention, check at load, trained parameters, ranks."""


class Ingest(Protocol):
    """Checks groups and turns them into arrays; knows the model's configuration, not its weights."""

    def ready(self, group: Scored, image_bytes: Sequence[bytes]) -> Ready:
        """`group` as arrays; may run in another thread beside a step.

        `image_bytes` are the encoded images in the order of the prompt's. Raises BadSample when the group can never
        be trained on: an image that cannot be decoded, placeholders that do not match the images, a banned token.
        """
        ...


@dataclass(frozen=True, eq=False)
class StepWork:
    """All that a training step is made from; `step` counts from 1, `importance` turns importance weights on.

    `portions`: ordinals of groups whose gradients are summed before those of the others, portion by portion, in this
    order. The update is the same; its last bits follow the order of the sum.
    """

    step: int
    total_steps: int
    importance: bool
    groups: Sequence[Ready]
    portions: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class StepResult:
    """What one training step measured: `metrics` by name, `seconds` by part of the step, tokens trained on."""

    metrics: dict[str, float]
    seconds: dict[str, float]
    num_response_tokens: int
    updates: int
    skipped: int


class TensorSink(Protocol):
    """Where an export goes, tensor by tensor."""

    def begin(self, layout: Layout) -> None:
        """Name all tensors that will follow; once, first."""
        ...

    def put(self, name: str, tensor: Tensor) -> None:
        """Copy a contiguous CPU tensor in the published type; a large one may come in flat pieces, in order."""
        ...


class Engine(Protocol):
    """A model under training; called from one thread at a time, `open` first."""

    def open(self, spec: JobSpec, checkpoint: Path | None) -> Facts:
        """Load the job's model, or continue with the bits that `save` wrote into `checkpoint`.

        Raises BadJob: no such model, or one that this engine cannot train; Corrupt: the checkpoint is not this job's.
        """
        ...

    def step(self, work: StepWork) -> StepResult:
        """Make the job's `updates_per_step` optimizer updates on the groups of `work`.

        Raises Diverged when the gradient was not finite in ten updates in a row, DoesNotFit when memory ran out.
        """
        ...

    def export(self, sink: TensorSink, *, scope: Scope) -> None:
        """Give the weights to `sink`, by state-dict name; a tied tensor once, of adapters the two matrices alone."""
        ...

    def save(self, folder: Path) -> None:
        """Write `model/`, a Hugging Face folder, and all the rest that `open` needs, as files into `folder`."""
        ...

    def close(self) -> None:
        """Let go of the model's memory; the engine is not used again."""
        ...


@runtime_checkable
class Overlapping(Protocol):
    """An engine that computes portions of a step while its other groups are still generated."""

    def begin(self, groups: Sequence[Ready], *, importance: bool) -> None:
        """Compute the next portion of the coming step.

        A `step` whose work names the same portions goes on from there; another one drops them and makes its own. Raises
        DoesNotFit.
        """
        ...


class OverlappingEngine(Engine, Overlapping, Protocol):
    """Both."""


class DoesNotFit(TriuneError):
    """The device has not enough memory for the model or for a step of this job."""
