"""The check at load of the vllm engine: what it samples of the probe against the model's own forward pass.

transformers loads the model into the host's memory for it, in the type that vLLM runs, and lets go of it: vLLM has the
device.
"""

import asyncio
from collections.abc import Sequence

import torch

from services.rollout.engine import Engine
from shared.errors import BadJob, BadSample
from shared.messages import Completion
from shared.models.hf.loading import open_model
from shared.models.hf.selfcheck import probe_sampling, probes, refuse_samples
from shared.models.inputs import Inputs


async def check(engine: Engine, source: str, inputs: Inputs, dtype: torch.dtype) -> float:
    """The largest |difference| of a sampled token's log-prob, in nats; raises BadJob when it is more than rounding."""
    sampled = []
    for prompt, images in probes(probe_sampling()):
        try:
            prepared = await engine.prepare(prompt, images)
        except BadSample as error:
            raise BadJob([f"the probe of the check at load cannot be prepared: {error}"]) from error
        sampled.append(await engine.generate(prepared, key=prompt.sample_id))
    return await asyncio.to_thread(_compare, source, inputs, dtype, sampled)


def _compare(source: str, inputs: Inputs, dtype: torch.dtype, sampled: Sequence[Sequence[Completion]]) -> float:
    return refuse_samples(open_model(source, dtype=dtype).eval(), inputs, sampled)
