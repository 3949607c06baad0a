"""What the rollout service asks of a generation engine; `engines/` holds those that answer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.blobs.weights import WeightsAt
from shared.messages import Completion, Prompt, Sampling
from shared.models.family import PreparedImage


@dataclass(frozen=True)
class PromptLimits:
    """Bounds on a prompt from the job file: pixels of an image, tokens with the image tokens included."""

    min_image_pixels: int
    max_image_pixels: int
    max_prompt_tokens: int


@dataclass(frozen=True, eq=False)
class PreparedPrompt:
    """A prompt as the model sees it.

    `ids` int32 (P,) with image placeholders expanded, `logical_ids` with one placeholder an image; `images` as the
    model's family prepares them.
    """

    ids: NDArray[np.int32]
    logical_ids: list[int]
    images: tuple[PreparedImage, ...]
    sampling: Sampling

    @property
    def image_grid_thw(self) -> list[tuple[int, int, int]]:
        """One (t, h, w) in patches an image."""
        return [image.grid for image in self.images]


def never() -> bool:
    """A `stop` that never says so."""
    return False


class Engine(Protocol):
    """One model on one device; all calls block and come from one worker thread at a time."""

    @property
    def version(self) -> int:
        """The version of the weights that are loaded; -1: those of the model folder, before any version."""
        ...

    @property
    def patch_size(self) -> int:
        """Side of a patch of the vision tower, in pixels."""
        ...

    def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt:
        """Tokens and pixels of a prompt whose encoded images are `images`; raises BadSample when it can't be used."""
        ...

    def generate(
        self, prompts: Sequence[PreparedPrompt], stop: Callable[[], bool] = never
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample all groups together; yields (index into `prompts`, its n completions) as soon as a group is whole.

        Ends early, with the groups that are not whole missing, soon after `stop` says true.
        The same prompt, seed and weights give the same completions, whatever else is in the batch (up to float
        rounding, which depends on the batch's shape).
        """
        ...

    def load(self, at: WeightsAt) -> None:
        """Copy the `changed` tensors of `at` from its files; the others' bits are those that run.

        Raises Corrupt when the model doesn't have such a tensor, or has one of another shape.
        """
        ...
