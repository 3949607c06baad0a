"""From a scored group to arrays: every check that can make a group void happens here, before a step sees it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

from services.learner.algorithms.advantages import group_advantages
from services.learner.attention.batch import Ints, Ready, ReadyImage, Response
from services.learner.model import loading
from services.learner.pixels import PixelCache
from shared.errors import BadSample
from shared.jobs.spec import JobSpec
from shared.messages import Scored, unpack_floats, unpack_ints
from shared.models import common as vlm


class Frame:
    """What of a model can be known without its weights: tokens, their positions, and how images become pixels.

    Raises BadJob when `source` is no folder or hub id of a vision-language model.
    """

    def __init__(self, source: str | Path) -> None:
        with loading(source):
            config = AutoConfig.from_pretrained(source)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
            self.image_processor: Any = AutoImageProcessor.from_pretrained(source)
            with torch.device("meta"):
                self._model: Any = AutoModelForImageTextToText.from_config(config)
            generation = _generation(source, config)
        self._config: Any = config
        self.banned = vlm.banned_for_model(config, generation, self._tokenizer)
        self.image_token_id = int(config.image_token_id)
        self.merge_size = int(config.vision_config.spatial_merge_size)
        self.vocab_size = int(config.get_text_config().vocab_size)

    def positions(self, prompt_ids: Ints, grids: Sequence[tuple[int, int, int]]) -> Ints:
        """mRoPE positions (3, P) of a prompt whose image placeholders stand for `grids`, by the model's own rule."""
        config = self._config
        kinds = vlm.token_types(prompt_ids, image_token_id=config.image_token_id, video_token_id=config.video_token_id)
        places, _ = self._model.model.get_rope_index(
            torch.from_numpy(prompt_ids)[None],
            mm_token_type_ids=torch.from_numpy(kinds)[None],
            image_grid_thw=torch.tensor(grids) if grids else None,
        )
        result: Ints = places[:, 0].numpy()
        return result


def _generation(source: str | Path, config: Any) -> GenerationConfig:
    """The model's generation configuration; one made from `config` where the folder has none, as transformers does."""
    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:
        return GenerationConfig.from_model_config(config)


class GroupIngest:
    """See `services.learner.engine.Ingest`, which this implements; `pixels` holds what it has prepared of images."""

    def __init__(self, spec: JobSpec) -> None:
        self.frame = Frame(spec.model)
        self._kind = spec.algorithm.advantage
        self.pixels = PixelCache(
            self.frame.image_processor, min_pixels=spec.data.min_image_pixels, max_pixels=spec.data.max_image_pixels
        )

    def ready(self, group: Scored, image_bytes: Sequence[bytes]) -> Ready:
        """`group` as arrays; raises BadSample when tokens, images or log-probs contradict each other."""
        frame = self.frame
        images = _images(group, image_bytes, self.pixels)
        prompt_ids = unpack_ints(group.group.prompt_ids).astype(np.int64)
        _check_prompt(prompt_ids, images, frame)
        valid = np.array([reward.ok for reward in group.rewards])
        rewards = np.array([reward.final for reward in group.rewards], dtype=np.float64)
        advantages = group_advantages(rewards, valid, self._kind)
        positions = frame.positions(prompt_ids, [image.grid for image in images])
        return Ready(
            scored=group,
            prompt_ids=prompt_ids,
            positions=positions,
            next_position=int(positions.max()) + 1,
            advantages=advantages,
            responses=_responses(group, advantages, frame),
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


def _check_prompt(prompt_ids: Ints, images: Sequence[ReadyImage], frame: Frame) -> None:
    if len(prompt_ids) == 0:
        raise BadSample("the prompt has no tokens")
    _check_ids(prompt_ids, frame, "prompt")
    found = int(np.sum(prompt_ids == frame.image_token_id))
    expected = sum(vlm.image_token_count(image.grid, frame.merge_size) for image in images)
    if found != expected:
        raise BadSample(f"the prompt has {found} image tokens; its {len(images)} images make {expected}")


def _responses(group: Scored, advantages: np.ndarray, frame: Frame) -> tuple[Response, ...]:
    responses = []
    banned = np.zeros(frame.vocab_size, dtype=bool)
    banned[frame.banned] = True
    for index, completion in enumerate(group.group.completions):
        ids = unpack_ints(completion.token_ids).astype(np.int64)
        log_probs = unpack_floats(completion.log_probs).astype(np.float32)
        if np.isnan(advantages[index]) or len(ids) == 0:
            continue
        _check_ids(ids, frame, f"completion {index}")
        if len(log_probs) != len(ids) or not np.all(np.isfinite(log_probs)):
            raise BadSample(
                f"completion {index} has {len(ids)} tokens, {len(log_probs)} log-probs; expected one a token, finite"
            )
        if (wrong := ids[banned[ids]]).size:
            raise BadSample(f"completion {index} holds token {wrong[0]}, which may not be sampled")
        responses.append(Response(index, ids, log_probs, float(advantages[index])))
    return tuple(responses)


def _check_ids(ids: Ints, frame: Frame, what: str) -> None:
    if ids.min() < 0 or ids.max() >= frame.vocab_size:
        raise BadSample(f"{what} holds token {ids.max()}; the model's vocabulary has {frame.vocab_size}")
