"""Tokens a second of the hf engine against transformers' own `generate` on the same prompts.

Prints one JSON line a case: `python bench/rollout.py [--threads N] [--repeats N]`. The model is the tiny one with
random weights, which hardly ever ends by itself, so each group has its own limit between 9 and 40 tokens; `generate`
knows one limit for all and is counted by the tokens within it. Both take turns, so that a busy machine slows both.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from services.rollout.engine import PreparedPrompt, PromptLimits
from services.rollout.engines.hf import HfEngine
from shared.messages import ChatTurn, Prompt, RewardSpec, Sampling
from shared.models.hf.forward import image_arguments
from triune.demo.tiny_vlm import make_tiny_vlm

QUESTION = "count the red circles"


@dataclass(frozen=True)
class Case:
    """`groups` prompts with one square image of `side` pixels, `n` completions each."""

    name: str
    groups: int
    n: int
    side: int
    temperature: float


CASES = [
    Case("training step, 9 image tokens", 32, 8, 84, 1.0),
    Case("training step, 256 image tokens", 8, 8, 448, 1.0),
    Case("evaluation, 9 image tokens", 128, 1, 84, 0.0),
]


def main() -> None:
    """Run every case and print its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        make_tiny_vlm(Path(folder), [QUESTION] * 8)
        engine = HfEngine.open(folder, dtype="float32", limits=PromptLimits(0, 2048 * 2048, 8192))
        for case in CASES:
            line = measure(engine, case, arguments.repeats) | {"threads": arguments.threads}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


def measure(engine: HfEngine, case: Case, repeats: int) -> dict[str, object]:
    """Medians over `repeats` rounds after one that is not measured; of processor time the least of them."""
    prompts = [engine.prepare(prompt(case, index), [picture(case.side, index)]) for index in range(case.groups)]
    tokens = {"engine": 0, "generate": 0}
    seconds: dict[str, list[float]] = {"engine": [], "generate": []}
    cpu: dict[str, list[float]] = {"engine": [], "generate": []}
    for _ in range(repeats + 1):
        for name, work in (("engine", by_engine), ("generate", by_generate)):
            started, computed = time.perf_counter(), time.process_time()
            tokens[name] = work(engine, prompts)
            seconds[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - computed)
    rates = {name: tokens[name] / statistics.median(seconds[name][1:]) for name in tokens}
    return {
        "bench": "rollout",
        "case": case.name,
        "groups": case.groups,
        "completions": case.n,
        "prompt_tokens": len(prompts[0].ids),
        "tokens": tokens["engine"],
        "engine_tokens_per_s": round(rates["engine"]),
        "generate_tokens_per_s": round(rates["generate"]),
        "ratio": round(rates["engine"] / rates["generate"], 2),
        "cpu_ratio": round(
            tokens["engine"] / min(cpu["engine"][1:]) / tokens["generate"] * min(cpu["generate"][1:]), 2
        ),
    }


def by_engine(engine: HfEngine, prompts: list[PreparedPrompt]) -> int:
    """Tokens that the engine sampled."""
    return sum(one.num_tokens for _, group in engine.generate(prompts) for one in group)


@torch.inference_mode()
def by_generate(engine: HfEngine, prompts: list[PreparedPrompt]) -> int:
    """Tokens within each group's limit that `generate` sampled (all prompts are of one length)."""
    sampling = [prompt.sampling for prompt in prompts]
    ids = np.stack([prompt.ids for prompt in prompts]).astype(np.int64)
    images = [image for prompt in prompts for image in prompt.images]
    made = engine.model.generate(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.ones(ids.shape, dtype=torch.long),
        mm_token_type_ids=torch.from_numpy(engine.inputs.kinds(ids)),
        **image_arguments(engine.inputs, images, engine.model.device),
        max_new_tokens=max(one.max_new_tokens for one in sampling),
        num_return_sequences=sampling[0].n,
        do_sample=sampling[0].temperature > 0,
        top_k=0,
        return_dict_in_generate=True,
    ).sequences[:, ids.shape[1] :]
    lengths = (made != engine.model.generation_config.pad_token_id).sum(1).tolist()
    limits = [one.max_new_tokens for one in sampling for _ in range(one.n)]
    return sum(min(length, limit) for length, limit in zip(lengths, limits, strict=True))


def prompt(case: Case, index: int) -> Prompt:
    """A group whose completions have at most 9 to 40 tokens."""
    return Prompt(
        job="bench",
        kind="train",
        ordinal=index,
        source="bench",
        task="counting",
        sample_id=str(index),
        turns=[ChatTurn(role="user", content=f"<image>{QUESTION}")],
        images=[],
        reward=RewardSpec(verifier="mathverify", answer="", ground_truth=""),
        sampling=Sampling(
            n=case.n, temperature=case.temperature, max_new_tokens=Random(index).randint(9, 40), seed=index
        ),
    )


def picture(side: int, seed: int) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
