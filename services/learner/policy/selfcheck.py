"""The learner's check at load: its packed forward against the plain one, on `shared.models.hf.selfcheck`'s probe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.learner.attention.batch import Packed, Part, Ready, ReadyImage, Response, pack
from shared.messages import Completed, Scored, pack_ints
from shared.models.hf.forward import positions_of
from shared.models.hf.selfcheck import (
    likely_answers,
    plain_log_probs,
    probe_image,
    probe_prompts,
    probe_sampling,
    probes,
    refuse_difference,
)
from shared.models.inputs import Inputs, PreparedPrompt

if TYPE_CHECKING:
    from services.learner.policy.model import VisionLanguageModel


@dataclass(frozen=True, eq=False)
class Reference:
    """The probe with its answers' log-probs by the model's own forward pass, made before its attention is replaced."""

    prompts: Sequence[PreparedPrompt]
    answers: Sequence[list[NDArray[np.int64]]]
    log_probs: Sequence[NDArray[np.float32]]  # of every prompt's every answer, in order

    @classmethod
    def of(cls, model: Any, inputs: Inputs) -> "Reference":
        prompts = probe_prompts(inputs)
        answers = [likely_answers(model, inputs, prompt) for prompt in prompts]
        plain = [
            plain_log_probs(model, inputs, prompt, tokens)
            for prompt, found in zip(prompts, answers, strict=True)
            for tokens in found
        ]
        return cls(prompts, answers, plain)


def check(model: "VisionLanguageModel", reference: Reference) -> float:
    """The largest |difference| of a log-prob; raises BadJob when it is more than rounding."""
    from services.learner.policy.model import Images

    packed = _packed(model.inputs, model.hf, reference)
    images = {_name(index): prompt.images[0] for index, prompt in enumerate(reference.prompts) if prompt.images}
    with torch.no_grad():
        values = model.token_values(packed, Images({}, images), 1.0).log_probs
    pieces = values.float().cpu().split([len(plain) for plain in reference.log_probs])
    return refuse_difference("learner", model.dtype, [piece.numpy() for piece in pieces], reference.log_probs)


def _packed(inputs: Inputs, hf: Any, reference: Reference) -> Packed:
    positions = positions_of(inputs, hf)
    parts = []
    for index, (prompt, answers) in enumerate(zip(reference.prompts, reference.answers, strict=True)):
        places = positions(prompt.ids, prompt.images)
        responses = tuple(
            Response(number, tokens, np.zeros(len(tokens), np.float32), 0.0) for number, tokens in enumerate(answers)
        )
        images = tuple(ReadyImage(_name(index), probe_image(), alone=True) for _ in prompt.images)
        ready = Ready(
            scored=_scored(index, prompt),
            prompt_ids=prompt.ids.astype(np.int64),
            positions=places,
            next_position=int(places.max()) + 1,
            advantages=np.zeros(len(answers)),
            responses=responses,
            images=images,
        )
        parts.append(Part(ready, responses))
    return pack(parts, image_token_id=inputs.image_token_id)


def _name(index: int) -> str:
    return f"probe-{index}"


def _scored(index: int, prompt: PreparedPrompt) -> Scored:
    """What a group comes in; nothing of it is read here but its ordinal."""
    group = Completed(
        prompt=probes(probe_sampling())[index][0],
        completions=[],
        prompt_ids=pack_ints(prompt.ids),
        image_grid_thw=prompt.grids,
        patch_size=1,
        replica="",
        started_at=0.0,
        finished_at=0.0,
    )
    return Scored(group=group, rewards=[], replica="", started_at=0.0, finished_at=0.0)
