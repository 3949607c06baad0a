"""From a scored group to arrays: every check that can make a group void happens here, before a step sees it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.learner.algorithms.group import group_advantages, shaped
from services.learner.attention.batch import Ints, Ready, ReadyImage, Response
from services.learner.intake.pixels import PixelCache
from shared.errors import BadSample
from shared.jobs.spec import JobSpec
from shared.messages import Scored, unpack_floats, unpack_ints
from shared.models.family import PreparedImage
from shared.models.hf.forward import positions_of
from shared.models.hf.loading import open_inputs
from shared.models.inputs import Inputs, Kept, PixelLimits

GIB = 1024**3


class GroupIngest:
    """See `services.learner.engine.Ingest`, which this implements; `pixels` holds what it has prepared of images."""

    def __init__(self, spec: JobSpec, kept: Kept | None = None) -> None:
        """Raises BadJob when the job's model cannot be loaded or is of no known family."""
        limits = PixelLimits(spec.data.min_image_pixels, spec.data.max_image_pixels)
        self.inputs = open_inputs(spec.model, pixels=limits, banned_tokens=spec.sampling.banned_tokens, kept=kept)
        self.pixels = PixelCache(self.inputs, limit_bytes=int(spec.learner.pixel_memory_gib * GIB))
        self._positions = positions_of(self.inputs)
        self._settings, self._has_teacher = spec.algorithm, bool(spec.distillation.model)

    def ready(self, group: Scored, image_bytes: Sequence[bytes]) -> Ready:
        """`group` as arrays; raises BadSample when tokens, images or log-probs contradict each other."""
        images = _images(group, image_bytes, self.inputs)
        made = [self.pixels.get(image) for image in images]
        prompt_ids = unpack_ints(group.group.prompt_ids).astype(np.int64)
        _check_prompt(group, prompt_ids, made, self.inputs)
        if bool(group.teacher) != self._has_teacher:
            raise BadSample(f"the group has {len(group.teacher)} of a teacher; expected those of distillation.model")
        valid = np.array([reward.ok for reward in group.rewards])
        finals = np.array([reward.final for reward in group.rewards], dtype=np.float64)
        lengths = [completion.num_tokens for completion in group.group.completions]
        rewards = shaped(finals, lengths, group.prompt.sampling.max_new_tokens, self._settings)
        advantages = group_advantages(rewards, valid, self._settings)
        positions = self._positions(prompt_ids, made)
        return Ready(
            scored=group,
            prompt_ids=prompt_ids,
            positions=positions,
            next_position=int(positions.max()) + 1,
            advantages=advantages,
            responses=_responses(group, advantages, self.inputs, keep_cut=not self._settings.mask_truncated),
            images=images,
            droppable=self._is_droppable(group, advantages),
        )

    def _is_droppable(self, group: Scored, advantages: np.ndarray) -> bool:
        """Whether the group teaches nothing (dynamic sampling: DAPO, arXiv:2503.14476, equation 11)."""
        if self._settings.uniform_by == "reward":
            return not np.any(np.nan_to_num(advantages))
        return len({reward.accuracy for reward in group.rewards if reward.ok}) <= 1


def _images(group: Scored, image_bytes: Sequence[bytes], inputs: Inputs) -> tuple[ReadyImage, ...]:
    refs = group.prompt.images
    if len(refs) != len(image_bytes):
        raise BadSample(f"the prompt names {len(refs)} images, {len(image_bytes)} were given")
    alone = len(refs) == 1
    names = [inputs.image_key(ref.blob.digest, alone=alone) for ref in refs]
    return tuple(ReadyImage(name, data, alone) for name, data in zip(names, image_bytes, strict=True))


def _check_prompt(group: Scored, prompt_ids: Ints, images: Sequence[PreparedImage], inputs: Inputs) -> None:
    if (grids := [image.grid for image in images]) != list(group.group.image_grid_thw):
        raise BadSample(
            f"images have grids {grids} here and {group.group.image_grid_thw} in the rollout; expected equal ones"
        )
    if len(prompt_ids) == 0:
        raise BadSample("the prompt has no tokens")
    _check_ids(prompt_ids, inputs, "prompt")
    inputs.check_placeholders(prompt_ids, images)


def _responses(group: Scored, advantages: np.ndarray, inputs: Inputs, *, keep_cut: bool) -> tuple[Response, ...]:
    """The completions with a verdict; those that were cut at the limit only if `keep_cut`."""
    responses = []
    banned = np.zeros(inputs.vocab_size, dtype=bool)
    banned[inputs.banned] = True
    for index, completion in enumerate(group.group.completions):
        ids = unpack_ints(completion.token_ids).astype(np.int64)
        log_probs = unpack_floats(completion.log_probs).astype(np.float32)
        if np.isnan(advantages[index]) or len(ids) == 0:
            continue
        _check_ids(ids, inputs, f"completion {index}")
        if len(log_probs) != len(ids) or not np.all(np.isfinite(log_probs)):
            raise BadSample(
                f"completion {index} has {len(ids)} tokens, {len(log_probs)} log-probs; expected one a token, finite"
            )
        if (wrong := ids[banned[ids]]).size:
            raise BadSample(f"completion {index} holds token {wrong[0]}, which may not be sampled")
        if completion.finish == "length" and not keep_cut:
            continue
        responses.append(Response(index, ids, log_probs, float(advantages[index]), _teacher(group, index, len(ids))))
    return tuple(responses)


def _teacher(group: Scored, index: int, length: int) -> NDArray[np.float32]:
    """(T,) of the completion's teacher, NaN where it has none; (0,) in a job without distillation."""
    if not group.teacher:
        return np.zeros(0, np.float32)
    found = unpack_floats(group.teacher[index]).astype(np.float32)
    if not len(found):
        return np.full(length, np.nan, np.float32)
    if len(found) != length or not np.all(np.isfinite(found)):
        raise BadSample(
            f"completion {index} has {length} tokens, {len(found)} log-probs of a teacher; expected one a token, finite"
        )
    return found


def _check_ids(ids: Ints, inputs: Inputs, what: str) -> None:
    if ids.min() < 0 or ids.max() >= inputs.vocab_size:
        raise BadSample(f"{what} holds token {ids.max()}; the model's vocabulary has {inputs.vocab_size}")
