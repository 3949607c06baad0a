"""The check at load: an engine's log-probs against the model's own plain forward pass, on one image and a question.

A model that an engine accepts and computes differently trains on wrong numbers without a word; so it refuses to start.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from shared.errors import BadJob
from shared.messages import ChatTurn, Completion, Prompt, RewardSpec, Sampling, unpack_floats, unpack_ints
from shared.models.hf.forward import plain_arguments
from shared.models.inputs import Inputs, PreparedPrompt

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest difference of a token's log-prob that rounding may make, by the parameters' type."""
ANSWERS, LENGTH = 2, 6
_SIZE = (140, 84)
_TEXT = "<image>What is to be seen in this picture? Answer in one sentence."


def probe_image() -> bytes:
    """A PNG of two colour gradients, width and height unequal."""
    across = Image.linear_gradient("L").rotate(90).resize(_SIZE)
    picture = Image.merge("RGB", (across, Image.linear_gradient("L").resize(_SIZE), Image.new("L", _SIZE, 90)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def probe_sampling() -> Sampling:
    """How a sampler answers the probe."""
    return Sampling(n=ANSWERS, temperature=1.0, max_new_tokens=LENGTH, seed=0)


def probes(sampling: Sampling) -> list[tuple[Prompt, list[bytes]]]:
    """A question about an image, and a shorter one without; each with its encoded images."""
    return [
        (
            Prompt(
                job="probe",
                kind="train",
                ordinal=ordinal,
                source="probe",
                task="probe",
                sample_id=f"probe-{ordinal}",
                turns=[ChatTurn(role="user", content=text)],
                images=[],
                reward=RewardSpec(verifier="", answer="", ground_truth=""),
                sampling=sampling,
            ),
            images,
        )
        for ordinal, (text, images) in enumerate([(_TEXT, [probe_image()]), ("How much is 3 + 4?", [])])
    ]


def probe_prompts(inputs: Inputs) -> list[PreparedPrompt]:
    """`probes` as the model sees them."""
    return [
        inputs.prompt(prompt.turns, [inputs.image(data, alone=True) for data in images])
        for prompt, images in probes(probe_sampling())
    ]


@torch.no_grad()
def likely_answers(model: Any, inputs: Inputs, prompt: PreparedPrompt) -> list[NDArray[np.int64]]:
    """Answers of `LENGTH` tokens that the model finds likely: greedy from its first choice, from its second, …"""
    first = _log_probs(model, inputs, prompt, np.empty(0, np.int64))[-1].topk(ANSWERS).indices.tolist()
    answers = []
    for token in first:
        tokens = np.array([token], dtype=np.int64)
        while len(tokens) < LENGTH:
            best = int(_log_probs(model, inputs, prompt, tokens)[-1].argmax())
            tokens = np.append(tokens, best)
        answers.append(tokens)
    return answers


@torch.no_grad()
def plain_log_probs(
    model: Any, inputs: Inputs, prompt: PreparedPrompt, tokens: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Log-probs (T,) of `tokens` after `prompt` at temperature 1 without banned tokens, by the model's own forward."""
    logs = _log_probs(model, inputs, prompt, tokens)[:-1]
    chosen = torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(logs.device)
    found: NDArray[np.float32] = logs.gather(-1, chosen[:, None])[:, 0].cpu().numpy()
    return found


def _log_probs(model: Any, inputs: Inputs, prompt: PreparedPrompt, tokens: NDArray[np.integer]) -> Tensor:
    """float32 (T + 1, V): after the prompt, and after each of `tokens`."""
    ids = np.concatenate([prompt.ids, tokens])
    arguments = plain_arguments(inputs, ids, prompt.images, model.device)
    logits = model(**arguments, use_cache=False).logits[0, len(prompt.ids) - 1 :].float()
    logits[:, inputs.banned] = -torch.inf
    return logits.log_softmax(-1)


def refuse_difference(
    engine: str, dtype: torch.dtype, ours: Sequence[NDArray[np.float32]], plain: Sequence[NDArray[np.float32]]
) -> float:
    """The largest |difference|; raises BadJob when rounding does not explain it, or when it is no number."""
    pairs = zip(ours, plain, strict=True)
    worst = max(float(np.abs(one - other).max()) for one, other in pairs)
    if not worst <= TOLERANCES[dtype]:
        raise BadJob(
            [
                f"the {engine}'s log-probs of this model differ from those of its own forward pass by up to "
                f"{worst:.2g}; expected at most {TOLERANCES[dtype]} in {str(dtype).removeprefix('torch.')}"
            ]
        )
    return worst


def refuse_samples(model: Any, inputs: Inputs, sampled: Sequence[Sequence[Completion]]) -> float:
    """`refuse_difference` of a sampler that has answered the `probe_prompts` with `sampled`, and of `model`."""
    ours, plain = [], []
    for prompt, completions in zip(probe_prompts(inputs), sampled, strict=True):
        for completion in completions:
            ours.append(unpack_floats(completion.log_probs))
            plain.append(plain_log_probs(model, inputs, prompt, unpack_ints(completion.token_ids)))
    return refuse_difference("sampler", model.dtype, ours, plain)
