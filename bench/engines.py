"""Tokens a second, update time and stall of a rollout engine as the service runs it: prepared, streamed, updated.

Prints JSON lines: `python bench/engines.py --engine hf|vllm --model FOLDER [--groups N --completions N --side N]`.
Without a model it makes the demo's tiny one, which vLLM's attention on a CPU does not take (a head of 24 numbers).
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bench.rollout import QUESTION, Case, picture, prompt
from services.rollout.app import open_engine
from services.rollout.config import RolloutConfig
from services.rollout.engine import Engine
from shared.jobs.document import parse_job
from shared.jobs.spec import JobSpec
from shared.models.hf.loading import open_model
from triune.demo.tiny_vlm import make_tiny_vlm


@dataclass(frozen=True)
class Folder:
    """A model's weights, as a version (`shared.blobs.weights.WeightsAt` as far as an engine reads it)."""

    version: int
    files: tuple[Path, ...]

    @property
    def changed(self) -> frozenset[str]:
        names: set[str] = set()
        for path in self.files:
            with safe_open(path, framework="np") as file:
                names |= set(file.keys())
        return frozenset(names)


def main() -> None:
    """Open the engine, measure it, close it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["hf", "vllm"], default="hf")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--completions", type=int, default=8)
    parser.add_argument("--side", type=int, default=84)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wanted.model = wanted.model or make_tiny_vlm(Path(folder) / "model", [QUESTION] * 8)
        published = Path(folder) / "published.safetensors"
        model = open_model(str(wanted.model), dtype=getattr(torch, wanted.dtype))
        save_file({name: parameter.detach() for name, parameter in model.named_parameters()}, published)
        del model
        asyncio.run(measure(wanted, published))


async def measure(wanted: Any, published: Path) -> None:
    """One line a round: the first one warms up. `published`: the model's weights under the names that versions have."""
    engine = await open_engine(spec_of(wanted), RolloutConfig())
    files = (published,)
    try:
        for number in range(wanted.repeats):
            line = {"bench": "engines", "engine": wanted.engine, "model": wanted.model.name, "round": number}
            line |= await generate(engine, wanted) | await update(engine, Folder(number, files))
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    finally:
        await engine.aclose()


def spec_of(wanted: Any) -> JobSpec:
    """A job of the wanted size."""
    return parse_job(
        {
            "model": str(wanted.model),
            "total_steps": 1,
            "data": {"train": ["unused"]},
            "algorithm": {"samples_per_prompt": wanted.completions},
            "sampling": {"max_new_tokens": wanted.tokens},
            "rollout": {"engine": wanted.engine, "dtype": wanted.dtype, "groups_in_flight": wanted.groups},
        }
    )


async def generate(engine: Engine, wanted: Any) -> dict[str, float]:
    """Preparing and sampling all groups at once, each completion as long as allowed unless it ends by itself."""
    case = Case("", wanted.groups, wanted.completions, wanted.side, 1.0)
    started = time.perf_counter()
    groups = [prompt(case, index) for index in range(wanted.groups)]
    longer = [
        msgspec.structs.replace(one, sampling=msgspec.structs.replace(one.sampling, max_new_tokens=wanted.tokens))
        for one in groups
    ]
    images = [picture(wanted.side, index) for index in range(wanted.groups)]
    prepared = await asyncio.gather(*(engine.prepare(one, [image]) for one, image in zip(longer, images, strict=True)))
    ready = time.perf_counter()
    made = await asyncio.gather(*(engine.generate(one, key=str(index)) for index, one in enumerate(prepared)))
    seconds = time.perf_counter() - ready
    tokens = sum(completion.num_tokens for group in made for completion in group)
    return {"prepare_s": round(ready - started, 3), "tokens": tokens, "tokens_per_s": round(tokens / seconds)}


async def update(engine: Engine, weights: Any) -> dict[str, float]:
    """All weights loaded again, with nothing in flight."""
    started = time.perf_counter()
    loaded = await engine.load(weights, mode="drain")
    size = sum(path.stat().st_size for path in weights.files)
    return {"update_s": round(time.perf_counter() - started, 3), "stall_s": round(loaded.stall_s, 3), "bytes": size}


if __name__ == "__main__":
    main()
