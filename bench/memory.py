"""Peak memory of the learner's update against the estimate that is shown at submit, for models of 1 to 300 M weights.

Prints one JSON line a case: `python bench/memory.py`. Each case is a process of its own, its second update is measured
(resident memory above that of the imports), and every large tensor is given back to the system when it is freed.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from bench import resident
from bench.learner import Case, scored_group
from bench.resident import MIB
from services.learner.attention.batch import micro_batches, pack, parts_of
from services.learner.engine import StepWork
from services.learner.engines.torch import TorchEngine
from services.learner.intake.ingest import GroupIngest
from shared.jobs.document import parse_job
from shared.jobs.spec import JobSpec
from shared.models.memory import Shape, estimate, read_architecture
from triune.demo.tiny_vlm import save_model, tiny_config
from triune.demo.tokenizer import train_tokenizer

VISION = ("vit", "connector")


@dataclass(frozen=True)
class Size:
    """A language model: channels, layers, channels of the MLP, heads, heads of keys, rows of the vocabulary."""

    hidden: int
    layers: int
    mlp: int
    heads: int
    key_heads: int
    vocabulary: int


SIZES = {
    "1M": Size(128, 4, 256, 4, 2, 512),
    "9M": Size(256, 8, 1024, 8, 2, 4096),
    "21M": Size(384, 8, 1536, 6, 2, 8192),
    "85M": Size(640, 12, 2560, 10, 2, 8192),
    "300M": Size(1024, 18, 4096, 16, 4, 16384),
}
CASES: list[tuple[str, Case, dict[str, Any]]] = [
    ("1M", Case("256 image tokens", 6, 448, 16, (40, 40), VISION), {"tokens_per_batch": 2000}),
    ("9M", Case("256 image tokens", 6, 448, 16, (40, 40), VISION), {"tokens_per_batch": 2000}),
    ("9M", Case("bfloat16", 6, 448, 16, (40, 40), VISION), {"tokens_per_batch": 2000, "dtype": "bfloat16"}),
    (
        "9M",
        Case("recomputed", 6, 448, 16, (40, 40), VISION),
        {"tokens_per_batch": 2000, "gradient_checkpointing": "on"},
    ),
    ("21M", Case("64 image tokens", 4, 224, 16, (20, 20), VISION), {"tokens_per_batch": 700}),
    ("85M", Case("64 image tokens", 4, 224, 16, (20, 20), VISION), {"tokens_per_batch": 500}),
    ("85M", Case("adapters of rank 16", 4, 224, 16, (20, 20), VISION), {"tokens_per_batch": 500, "lora_rank": 16}),
    ("85M", Case("8-bit moments", 4, 224, 16, (20, 20), VISION), {"tokens_per_batch": 500, "optimizer_state": "8bit"}),
    ("300M", Case("64 image tokens", 2, 224, 16, (20, 20), VISION), {"tokens_per_batch": 300}),
]


def main() -> None:
    """Run every case, or measure the one that is named by its number."""
    if len(sys.argv) > 1:
        size, case, learner = CASES[int(sys.argv[1])]
        with tempfile.TemporaryDirectory() as folder:
            build(SIZES[size], Path(folder))
            line = {"bench": "memory", "model": size, "case": case.name} | measure(case, folder, learner)
        sys.stdout.write(json.dumps(line) + "\n")
        return
    limits = {**resident.GIVEN_BACK, "OMP_NUM_THREADS": "1"}
    for number in range(len(CASES)):
        subprocess.run([sys.executable, __file__, str(number)], env={**os.environ, **limits}, check=True)


INITIALIZER_RANGE = 0.02
"""The library's: with larger weights, rounding to bfloat16 makes more of a difference than a self-check takes."""


def build(size: Size, folder: Path) -> None:
    """A random model of that size with a small tower."""
    tokenizer = train_tokenizer(["count the red circles 0 1 2 3"] * 8, vocab_size=512)
    config = tiny_config(tokenizer).to_dict()
    part = size.hidden // size.heads // 6
    rope = {"rope_type": "default", "rope_theta": 1e4}
    rope |= {"mrope_section": [size.hidden // size.heads // 2 - 2 * part, part, part]}  # type: ignore[dict-item]
    config["text_config"] |= {
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "intermediate_size": size.mlp,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_heads,
        "vocab_size": size.vocabulary,
        "rope_parameters": rope,
        "initializer_range": INITIALIZER_RANGE,
        "layer_types": ["full_attention"] * size.layers,
    }
    config["vision_config"] |= {"out_hidden_size": size.hidden, "initializer_range": INITIALIZER_RANGE}
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    save_model(model, tokenizer, folder)


def measure(case: Case, folder: str, learner: dict[str, Any]) -> dict[str, Any]:
    """Measured and estimated MiB of an update with several micro-batches, and their ratio."""
    spec = parse_job(
        {
            "model": folder,
            "total_steps": 10,
            "data": {"train": ["unused"]},
            "optimizer": {"freeze": list(case.freeze)},
            "learner": learner,
        }
    )
    ingest = GroupIngest(spec)
    groups = [ingest.ready(*scored_group(case, ordinal, ingest.inputs)) for ordinal in range(case.groups)]
    before = resident.now()
    engine = TorchEngine(ingest.pixels)
    engine.open(spec, None)
    engine.step(StepWork(1, 10, False, groups))
    resident.count_peak()
    engine.step(StepWork(2, 10, False, groups))
    measured = resident.peak() - before
    found = estimate(spec, read_architecture(Path(folder)), shape_of(spec, groups, ingest), device="cpu")
    parts = {name: round(size / MIB, 1) for name, size in found.device.items()}
    return {
        "measured_mib": round(measured / MIB, 1),
        "estimate_mib": round(found.device_bytes / MIB, 1),
        "ratio": round(found.device_bytes / measured, 3),
        "parts": parts,
    }


def shape_of(spec: JobSpec, groups: list[Any], ingest: GroupIngest) -> Shape:
    """The largest micro-batch of `groups`."""
    budget = spec.learner.tokens_per_batch
    largest = max(
        micro_batches(parts_of(groups, budget), budget), key=lambda batch: sum(part.num_tokens for part in batch)
    )
    packed = pack(largest, image_token_id=ingest.inputs.image_token_id)
    grids = [grid for part in largest for grid in part.group.scored.group.image_grid_thw]
    return Shape(
        tokens=len(packed.token_ids),
        responses=len(packed.targets),
        gathered=sum(block.key.size for block in packed.blocks),
        patches=sum(t * h * w for t, h, w in grids),
    )


if __name__ == "__main__":
    main()
