"""`Engine` on vLLM's AsyncLLM: it batches, shares a prompt's keys and values among its samples, and changes weights in
place.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from services.rollout.engine import Facts, Loaded, Prepared, PromptLimits, Traits, UpdateMode
from services.rollout.engines.prepare import prepare
from services.rollout.engines.vllm import launch
from services.rollout.engines.vllm.beside import Beside
from services.rollout.engines.vllm.selfcheck import check
from shared.blobs.weights import WeightsAt
from shared.errors import BadSample, Corrupt, Unavailable, UserError
from shared.jobs.spec import JobSpec
from shared.messages import Completion, Prompt, Sampling, pack_floats, pack_ints
from shared.models.hf.adapters import opened
from shared.models.hf.loading import open_inputs
from shared.models.inputs import Inputs, Kept, PixelLimits
from shared.samples.images import decode_image

Result = TypeVar("Result")
_SEEDS = 2**62
_LOOK_S = 0.5
"""How often a load looks whether vLLM's process still runs."""
_BEFORE_ANY = "-1"
"""vLLM's label of the weights that the model folder holds."""


@dataclass(frozen=True)
class VllmPrompt:
    """`logical_ids` have one placeholder an image, which vLLM expands to `ids` int32 (P,) itself."""

    ids: NDArray[np.int32]
    logical_ids: list[int]
    images: list[Image.Image]
    image_grid_thw: list[tuple[int, int, int]]
    sampling: Sampling
    box_convention: str = ""


class VllmEngine:
    """See `services.rollout.engine.Engine`."""

    def __init__(self, beside: Beside, llm: Any, inputs: Inputs, max_prompt_tokens: int, room: int) -> None:
        self.traits = Traits(room=room, in_flight_updates=True)
        self._beside, self._llm, self._inputs = beside, llm, inputs
        self._max_prompt_tokens = max_prompt_tokens
        self._shapes = _shapes(inputs.parts.config)
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "prepare")
        self._open: set[str] = set()
        self._version = _BEFORE_ANY
        self._is_asleep = False
        self.facts: Facts = {"engine": "vllm"}

    @classmethod
    async def open(cls, spec: JobSpec, limits: PromptLimits, kept: Kept | None = None) -> "VllmEngine":
        """The engine of the job's model; raises UserError when it can't be had."""
        pixels = PixelLimits(limits.min_image_pixels, limits.max_image_pixels)
        banned_tokens = spec.sampling.banned_tokens
        inputs = await asyncio.to_thread(open_inputs, spec.model, pixels=pixels, banned_tokens=banned_tokens, kept=kept)
        beside = Beside("vllm")
        try:
            llm = await beside.run(_start(launch.arguments(spec, inputs.banned, on_gpu=torch.cuda.is_available())))
        except (OSError, ValueError, RuntimeError) as error:
            beside.close()
            raise UserError(f"vllm does not start with model {spec.model!r}: {str(error).splitlines()[0]}") from error
        engine = cls(beside, llm, inputs, limits.max_prompt_tokens, launch.completions_at_once(spec))
        dtype = spec.rollout.dtype
        try:
            found = await check(engine, spec.model, inputs, getattr(torch, dtype))
        except BaseException:
            await engine.aclose()
            raise
        device = "cuda" if torch.cuda.is_available() else "cpu"
        engine.facts = {"engine": "vllm", "device": device, "dtype": dtype, "self_check": found}
        return engine

    @property
    def patch_size(self) -> int:
        return self._inputs.patch_size

    async def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> Prepared:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(self._prepare, prompt, images))

    def _prepare(self, prompt: Prompt, images: Sequence[bytes]) -> VllmPrompt:
        if len(images) > launch.MAX_IMAGES:
            raise BadSample(f"the prompt has {len(images)} images; engine vllm takes {launch.MAX_IMAGES}")
        prepared = prepare(prompt, images, self._inputs, self._max_prompt_tokens)
        pixels = self._inputs.pixels
        resized = [
            _resize(decode_image(data, min_pixels=pixels.least, max_pixels=pixels.most), grid, self.patch_size)
            for data, grid in zip(images, prepared.image_grid_thw, strict=True)
        ]
        return VllmPrompt(
            prepared.ids,
            prepared.logical_ids,
            resized,
            prepared.image_grid_thw,
            prompt.sampling,
            prepared.box_convention,
        )

    async def generate(self, prepared: Prepared, *, key: str) -> list[Completion]:
        assert isinstance(prepared, VllmPrompt) and key not in self._open
        request: dict[str, Any] = {"prompt_token_ids": prepared.logical_ids, "cache_salt": self._version}
        if prepared.images:
            request["multi_modal_data"] = {"image": prepared.images}
        self._open.add(key)
        try:
            output = await self._run(self._sample(request, self._parameters(prepared), key))
        finally:
            self._open.discard(key)
        return self._completions(prepared, output)

    async def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """`work` in vLLM's loop; raises Unavailable when its process is gone."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            return await self._beside.run(work)
        except (EngineDeadError, EngineGenerateError) as error:
            raise Unavailable(f"vllm's engine has ended: {error}") from error

    async def _sample(self, request: dict[str, Any], parameters: Any, key: str) -> Any:
        async with contextlib.aclosing(self._llm.generate(request, parameters, key)) as outputs:
            *_, output = [one async for one in outputs]
        return output

    def _parameters(self, prepared: VllmPrompt) -> Any:
        """Every field that a model's own defaults could touch is named. Sample k has the seed of its group plus k."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = prepared.sampling
        is_greedy = sampling.temperature == 0
        return SamplingParams(
            n=1 if is_greedy else sampling.n,
            temperature=sampling.temperature,
            top_p=1.0 if is_greedy else sampling.top_p,
            top_k=-1,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=self._inputs.ends,
            seed=sampling.seed * sampling.n % _SEEDS,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _completions(self, prepared: VllmPrompt, output: Any) -> list[Completion]:
        if list(output.prompt_token_ids) != prepared.ids.tolist():
            raise Corrupt(
                f"vllm saw {len(output.prompt_token_ids)} prompt tokens, the learner will see {len(prepared.ids)}; "
                "expected the same ones"
            )
        made = [self._completion(one) for one in sorted(output.outputs, key=lambda one: one.index)]
        return made * prepared.sampling.n if len(made) == 1 else made

    def _completion(self, sample: Any) -> Completion:
        ids = list(sample.token_ids)
        if sample.finish_reason not in ("stop", "length") or not ids:
            raise Unavailable(f"vllm ended a completion with {sample.finish_reason!r} after {len(ids)} tokens")
        return Completion(
            token_ids=pack_ints(ids),
            log_probs=pack_floats([chosen[token].logprob for chosen, token in zip(sample.logprobs, ids, strict=True)]),
            text=self._inputs.text(ids),
            finish="stop" if ids[-1] in self._inputs.ends else "length",
            versions=[(int(span.version), span.end - span.start) for span in sample.weight_versions],
        )

    async def load(self, at: WeightsAt, *, mode: UpdateMode = "drain") -> Loaded:
        """Pausing with `clear_cache` drops all keys, values and image features: what goes on is computed again."""
        await asyncio.to_thread(self._check, at)
        began, kept = time.monotonic(), len(self._open)
        await self._wake()
        await self._run(self._unless_dead(self._replace(at, "keep" if mode == "keep" else "wait")))
        return Loaded(at.version, time.monotonic() - began, kept if mode == "keep" else 0)

    async def sleep(self) -> None:
        """At vLLM's level 2: weights, keys and values leave the card, and the host keeps no copy of them."""
        await self._run(self._unless_dead(self._llm.sleep(level=2)))
        self._is_asleep = True

    async def _wake(self) -> None:
        if self._is_asleep:
            await self._run(self._unless_dead(self._llm.wake_up()))
            self._is_asleep = False

    async def _unless_dead(self, work: Coroutine[Any, Any, None]) -> None:
        """vLLM leaves a call to its process unanswered when that dies under it; only groups are told."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                if self._llm.errored:
                    raise Unavailable("vllm's engine has ended while it was to load weights, sleep or wake")
                await asyncio.wait({task}, timeout=_LOOK_S)
        finally:
            task.cancel()
        task.result()

    async def _replace(self, at: WeightsAt, pause: str) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        files = {"paths": [str(path) for path in at.files], "names": sorted(at.changed)}
        await self._llm.pause_generation(mode=pause, clear_cache=True)
        try:
            await self._llm.start_weight_update()
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info=files))
            await self._llm.finish_weight_update(weight_version=str(at.version))
            self._version = str(at.version)
        finally:
            await self._llm.resume_generation()

    def _check(self, at: WeightsAt) -> None:
        """Raises Corrupt before anything is copied, since vLLM would stop half-way."""
        with opened(at.files, at.changed) as tensors:
            for name, stored in tensors.items():
                if self._shapes.get(name) != stored.shape:
                    raise Corrupt(
                        f"the weights of version {at.version} hold {name!r} of shape {stored.shape}; "
                        f"the model has {self._shapes.get(name, 'no such tensor')}"
                    )

    async def aclose(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._llm.shutdown)
        await asyncio.to_thread(self._beside.close)


async def _start(arguments: dict[str, Any]) -> Any:
    """An AsyncLLM that runs the model folder's weights."""
    from vllm.distributed.weight_transfer.base import WeightTransferInitRequest
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    await llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info={}))
    await llm.update_weight_version(_BEFORE_ANY)
    return llm


def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by the names that transformers gives the tensors; nothing is allocated."""
    with torch.device("meta"):
        skeleton = transformers.AutoModelForImageTextToText.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}


def _resize(image: Image.Image, grid: tuple[int, int, int], patch_size: int) -> Image.Image:
    """The image in the size that its grid stands for, by the filter that the other engines use: vLLM's own differs."""
    _, height, width = grid
    return image.convert("RGB").resize((width * patch_size, height * patch_size), Image.Resampling.BICUBIC)
