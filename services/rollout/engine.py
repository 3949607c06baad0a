"""What the rollout service asks of a generation engine; `engines/` holds those that answer.

An engine is a stream, not a batch: groups come and go one by one, weights change beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.blobs.weights import WeightsAt
from shared.messages import Completion, Prompt, Sampling
from shared.models.family import PreparedImage

UpdateMode = Literal["drain", "keep"]
"""What `load` does with groups that are being generated: wait until they have ended, or go on with the new weights."""


@dataclass(frozen=True)
class PromptLimits:
    """Bounds on a prompt from the job file: pixels of an image, tokens with the image tokens included."""

    min_image_pixels: int
    max_image_pixels: int
    max_prompt_tokens: int


@dataclass(frozen=True)
class Traits:
    """What an engine can do: `room` completions at once, and whether `load` may `keep` what is being generated."""

    room: int
    in_flight_updates: bool


Facts = dict[str, str | int | float]
"""For log and report: the engine's name, device, type of the weights, check at load."""


@dataclass(frozen=True)
class Loaded:
    """What a load did: seconds for which no token was sampled, groups that went on with the new weights."""

    version: int
    stall_s: float
    kept: int


class Prepared(Protocol):
    """A prompt as the model sees it; the engine's own type, of which the service reads these.

    `ids` int32 (P,) with image placeholders expanded; `image_grid_thw` one (t, h, w) in patches an image;
    `box_convention` is what the model's family writes for a box, empty if it has none.
    """

    @property
    def ids(self) -> NDArray[np.int32]: ...
    @property
    def image_grid_thw(self) -> list[tuple[int, int, int]]: ...
    @property
    def sampling(self) -> Sampling: ...
    @property
    def box_convention(self) -> str: ...


@dataclass(frozen=True, eq=False)
class PreparedPrompt:
    """What an engine of a Hugging Face model takes (`Prepared`).

    `ids` int32 (P,) with image placeholders expanded, `logical_ids` with one placeholder an image; `images` as the
    model's family prepares them, `image_names` their names where they have any (`Inputs.image_key`). `box_convention`
    is what the family writes for a box, empty if it has none.
    """

    ids: NDArray[np.int32]
    logical_ids: list[int]
    images: tuple[PreparedImage, ...]
    sampling: Sampling
    box_convention: str = ""
    image_names: tuple[str, ...] = ()

    @property
    def image_grid_thw(self) -> list[tuple[int, int, int]]:
        """One (t, h, w) in patches an image."""
        return [image.grid for image in self.images]


class Engine(Protocol):
    """One model on one device. Coroutines of the service's loop: an engine that blocks owns a thread."""

    @property
    def traits(self) -> Traits: ...

    @property
    def facts(self) -> Facts: ...

    @property
    def patch_size(self) -> int:
        """Side of a patch of the vision tower, in pixels."""
        ...

    async def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> Prepared:
        """Tokens and pixels of a prompt whose encoded images are `images`; raises BadSample when it can't be used."""
        ...

    async def generate(self, prepared: Prepared, *, key: str) -> list[Completion]:
        """Sample one group; `key` names it while it is being generated. Cancelling ends its work at once.

        Each completion's version runs sum to its tokens. The same prompt, seed and weights give the same completions,
        whatever else is being generated (up to float rounding, which depends on the batch's shape). Raises Unavailable
        when the engine is gone: it takes no more calls.
        """
        ...

    async def load(self, at: WeightsAt, *, mode: UpdateMode = "drain") -> Loaded:
        """Copy the `changed` tensors of `at` from its files; the others' bits are those that run.

        Raises Corrupt before anything is copied: the model doesn't have such a tensor, or one of another shape.
        """
        ...

    async def sleep(self) -> None:
        """Free the device of weights and caches; nothing is being generated. The next `load` wakes it.

        That `load` is given all tensors as `changed`.
        """
        ...

    async def aclose(self) -> None:
        """Stop what is being generated and free the device; more than once is fine."""
        ...
