"""From a scored group to arrays: every check that can make a group void happens here, before a step sees it."""

from collections.abc import Sequence

import numpy as np

from services.learner.algorithms.advantages import Advantage, group_advantages
from services.learner.attention.batch import Ints, Ready, ReadyImage, Response
from services.learner.model import VisionLanguageModel
from services.learner.pixels import PixelCache
from shared.errors import BadSample
from shared.messages import Scored, unpack_floats, unpack_ints
from shared.models import common as vlm


def make_ready(
    group: Scored, image_bytes: Sequence[bytes], *, model: VisionLanguageModel, cache: PixelCache, kind: Advantage
) -> Ready:
    """`group` as arrays; raises BadSample when tokens, images or log-probs contradict each other."""
    images = _images(group, image_bytes, cache)
    prompt_ids = unpack_ints(group.group.prompt_ids).astype(np.int64)
    _check_prompt(prompt_ids, images, model)
    valid = np.array([reward.ok for reward in group.rewards])
    rewards = np.array([reward.final for reward in group.rewards], dtype=np.float64)
    advantages = group_advantages(rewards, valid, kind)
    positions = model.positions(prompt_ids, [image.grid for image in images])
    return Ready(
        scored=group,
        prompt_ids=prompt_ids,
        positions=positions,
        next_position=int(positions.max()) + 1,
        advantages=advantages,
        responses=_responses(group, advantages, model),
        images=images,
    )


def _images(group: Scored, image_bytes: Sequence[bytes], cache: PixelCache) -> tuple[ReadyImage, ...]:
    refs = group.prompt.images
    if len(refs) != len(image_bytes):
        raise BadSample(f"the prompt names {len(refs)} images, {len(image_bytes)} were given")
    grids = [cache.grid(ref.blob.digest, data) for ref, data in zip(refs, image_bytes, strict=True)]
    if grids != list(group.group.image_grid_thw):
        raise BadSample(
            f"images have grids {grids} here and {group.group.image_grid_thw} in the rollout; expected equal ones"
        )
    return tuple(
        ReadyImage(ref.blob.digest, data, grid) for ref, data, grid in zip(refs, image_bytes, grids, strict=True)
    )


def _check_prompt(prompt_ids: Ints, images: Sequence[ReadyImage], model: VisionLanguageModel) -> None:
    if len(prompt_ids) == 0:
        raise BadSample("the prompt has no tokens")
    _check_ids(prompt_ids, model, "prompt")
    found = int(np.sum(prompt_ids == model.image_token_id))
    expected = sum(vlm.image_token_count(image.grid, model.merge_size) for image in images)
    if found != expected:
        raise BadSample(f"the prompt has {found} image tokens; its {len(images)} images make {expected}")


def _responses(group: Scored, advantages: np.ndarray, model: VisionLanguageModel) -> tuple[Response, ...]:
    responses = []
    banned = np.zeros(model.vocab_size, dtype=bool)
    banned[model.banned] = True
    for index, completion in enumerate(group.group.completions):
        ids = unpack_ints(completion.token_ids).astype(np.int64)
        log_probs = unpack_floats(completion.log_probs).astype(np.float32)
        if np.isnan(advantages[index]) or len(ids) == 0:
            continue
        _check_ids(ids, model, f"completion {index}")
        if len(log_probs) != len(ids) or not np.all(np.isfinite(log_probs)):
            raise BadSample(
                f"completion {index} has {len(ids)} tokens, {len(log_probs)} log-probs; expected one a token, finite"
            )
        if (wrong := ids[banned[ids]]).size:
            raise BadSample(f"completion {index} holds token {wrong[0]}, which may not be sampled")
        responses.append(Response(index, ids, log_probs, float(advantages[index])))
    return tuple(responses)


def _check_ids(ids: Ints, model: VisionLanguageModel, what: str) -> None:
    if ids.min() < 0 or ids.max() >= model.vocab_size:
        raise BadSample(f"{what} holds token {ids.max()}; the model's vocabulary has {model.vocab_size}")
