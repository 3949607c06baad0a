"""One learner update against the same update with every prompt and image repeated n times, and grouped.

Prints one JSON line a case: `python bench/learner.py [--threads N] [--repeats N] [--dtype TYPE] [--flat]`, seconds,
response tokens a second and, from a process apart, the peak of memory. The plain update is transformers'
own model, its batch padded within buckets of similar length; the grouped one is `bench.grouped`, where PyPI's
`prefix-grouper` is installed. All take turns, so that a busy machine slows all of them; seconds are the process's own
on all its cores, and wall seconds beside them. In bfloat16 all sides have the same optimizer, with float32 masters.
`--flat` gives the others our convolution over patches, too, to see what of a ratio is attention and packing.
"""

import argparse
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import torch
from PIL import Image

from bench import resident
from bench.side import Side
from services.learner.algorithms.losses import ppo_clip
from services.learner.algorithms.tokens import Tokens
from services.learner.attention.batch import Ready
from services.learner.engine import StepWork
from services.learner.engines.torch import TorchEngine
from services.learner.intake.ingest import GroupIngest
from services.learner.intake.pixels import PixelCache
from shared.jobs.document import parse_job
from shared.jobs.spec import JobSpec
from shared.messages import (
    BlobRef,
    ChatTurn,
    Completed,
    Completion,
    ImageRef,
    Prompt,
    Reward,
    RewardSpec,
    Sampling,
    Scored,
    pack_floats,
    pack_ints,
)
from shared.models.hf.forward import image_arguments
from shared.models.inputs import Inputs
from triune.demo.tiny_vlm import make_tiny_vlm

N = 8
BUCKETS = 3


@dataclass(frozen=True)
class Case:
    """`groups` prompts of `text` tokens and one square image of `side` pixels; N responses of `lengths` (low, high)."""

    name: str
    groups: int
    side: int
    text: int
    lengths: tuple[int, int]
    freeze: tuple[str, ...]

    @property
    def image_tokens(self) -> int:
        return (self.side // 28) ** 2


CASES = [
    Case("256 image tokens", 2, 448, 16, (40, 40), ()),
    Case("9 image tokens", 32, 84, 16, (9, 28), ()),
    Case("256 image tokens, vit and connector frozen", 2, 448, 16, (40, 40), ("vit", "connector")),
    Case("9 image tokens, vit and connector frozen", 32, 84, 16, (9, 28), ("vit", "connector")),
    Case("1,024 image tokens, 300-token answers", 1, 896, 16, (300, 300), ("vit", "connector")),
]


def main() -> None:
    """Run every case and print its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="numbers of the cases, from 0")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the parameters")
    parser.add_argument("--flat", action="store_true", help="the others' convolution is a matrix product, as ours is")
    parser.add_argument("--peaks", action="store_true", help="measure memory instead (the process that is apart)")
    arguments = parser.parse_args()
    Side.flat = arguments.flat
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        make_tiny_vlm(Path(folder), ["count the red circles 0 1 2 3"] * 8)
        for number in arguments.cases:
            if arguments.peaks:
                line = peaks(CASES[number], folder, arguments.dtype)
            else:
                line = measure(CASES[number], folder, arguments.dtype, arguments.repeats)
                line |= peaks_apart(number, arguments.dtype)
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


def sides(spec: JobSpec, groups: Sequence[Ready], pixels: PixelCache) -> dict[str, Callable[[], Callable[[], None]]]:
    """What makes each side ready, by name: it returns the update."""

    def shared() -> Callable[[], None]:
        engine, steps = TorchEngine(pixels), itertools.count(1)
        engine.open(spec, None)
        return lambda: engine.step(StepWork(next(steps), 1000, False, groups)) and None

    found = {"plain": lambda: Plain(spec, groups, pixels).update}
    if find_spec("prefix_grouper") is not None:
        found["grouped"] = lambda: import_module("bench.grouped").Grouped(spec, groups, pixels).update
    return found | {"learner": shared}


def peaks_apart(number: int, dtype: str) -> dict[str, object]:
    """`peaks` of a case, from a process that gives freed memory back."""
    command = [sys.executable, __file__, "--threads", "1", "--cases", str(number), "--dtype", dtype, "--peaks"]
    env = {**os.environ, **resident.GIVEN_BACK}
    made = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(made.stdout.splitlines()[-1]))


def peaks(case: Case, folder: str, dtype: str) -> dict[str, object]:
    """MiB that a side's second update has at most above what was there before its model was loaded."""
    spec = job(case, folder, dtype)
    ingest = GroupIngest(spec)
    groups = [ingest.ready(*scored_group(case, ordinal, ingest.inputs)) for ordinal in range(case.groups)]
    found = {}
    for name, make in sides(spec, groups, ingest.pixels).items():
        before = resident.now()
        update = make()
        update()
        resident.count_peak()
        update()
        found[name] = resident.peak() - before
        del update
        gc.collect()
    return {f"{name}_peak_mib": round(size / resident.MIB, 1) for name, size in found.items()} | {
        f"{name}_peak_ratio": round(found["learner"] / size, 2) for name, size in found.items() if name != "learner"
    }


def measure(case: Case, folder: str, dtype: str, repeats: int) -> dict[str, object]:
    """Median seconds of each update after one unmeasured round, and their ratios."""
    spec = job(case, folder, dtype)
    ingest = GroupIngest(spec)
    groups = [ingest.ready(*scored_group(case, ordinal, ingest.inputs)) for ordinal in range(case.groups)]
    updates = {name: make() for name, make in sides(spec, groups, ingest.pixels).items()}
    times = dict(zip(updates, take_turns(list(updates.values()), repeats), strict=True))
    tokens = sum(group.num_response_tokens for group in groups)
    return {
        "bench": "learner",
        "case": case.name,
        "dtype": dtype,
        "flat": Side.flat,
        "groups": case.groups,
        "completions": N,
        "image_tokens": case.image_tokens,
        "prompt_tokens": len(groups[0].prompt_ids),
        "response_tokens": tokens,
        "threads": torch.get_num_threads(),
        **{f"{name}_s": round(wall, 4) for name, (wall, _) in times.items()},
        **{f"{name}_cpu_s": round(cpu, 4) for name, (_, cpu) in times.items()},
        **{f"{name}_tokens_per_cpu_s": round(tokens / cpu) for name, (_, cpu) in times.items()},
        **{
            f"against_{name}{kind}": round(times[name][index] / times["learner"][index], 2)
            for name in updates
            if name != "learner"
            for index, kind in enumerate(("", "_cpu"))
        },
    }


def take_turns(calls: Sequence[Callable[[], None]], repeats: int) -> list[tuple[float, float]]:
    """Median wall seconds and seconds of processor time of each call, one unmeasured round before."""
    times: list[list[tuple[float, float]]] = [[] for _ in calls]
    for round_number in range(repeats + 1):
        for call, seconds in zip(calls, times, strict=True):
            start, used = time.perf_counter(), time.process_time()
            call()
            if round_number:
                seconds.append((time.perf_counter() - start, time.process_time() - used))
    return [
        (statistics.median(wall), statistics.median(cpu)) for wall, cpu in (zip(*rows, strict=True) for rows in times)
    ]


class Plain(Side):
    """The same update by transformers' forward: one row a completion, with its own copy of prompt and image."""

    def __init__(self, spec: JobSpec, groups: Sequence[Ready], pixels: PixelCache) -> None:
        super().__init__(spec)
        rows = sorted(
            ((group, row) for group in groups for row in group.responses), key=lambda pair: len(pair[1].token_ids)
        )
        size = -(-len(rows) // BUCKETS)
        self.buckets = [self._bucket(rows[start : start + size], pixels) for start in range(0, len(rows), size)]
        self.tokens = sum(len(row.token_ids) for _, row in rows)

    def _bucket(self, rows: Sequence[tuple[Ready, Any]], pixels: PixelCache) -> dict[str, Any]:
        prompt = len(rows[0][0].prompt_ids)
        longest = max(len(row.token_ids) for _, row in rows)
        ids = torch.zeros(len(rows), prompt + longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        advantages = torch.zeros(len(rows), longest)
        for index, (group, row) in enumerate(rows):
            end = prompt + len(row.token_ids)
            ids[index, :end] = torch.from_numpy(np.concatenate([group.prompt_ids, row.token_ids]))
            mask[index, :end] = 1
            advantages[index] = row.advantage
        image_token = self.model.config.image_token_id
        return {
            "inputs": {
                "input_ids": ids,
                "attention_mask": mask,
                "mm_token_type_ids": (ids == image_token).long(),
                **image_arguments(
                    pixels.inputs, [pixels.get(group.images[0]) for group, _ in rows], torch.device("cpu")
                ),
            },
            "prompt": prompt,
            "mask": mask[:, prompt:].bool(),
            "advantages": advantages,
            "keep": longest + 1,
        }

    def update(self) -> None:
        """Forward, loss, backward, clip and AdamW."""
        for bucket in self.buckets:
            keep, mask = bucket["keep"], bucket["mask"]
            logits = self.model(**bucket["inputs"], use_cache=False, logits_to_keep=keep).logits[:, :-1]
            targets = bucket["inputs"]["input_ids"][:, bucket["prompt"] :, None]
            log_probs = logits.float().log_softmax(-1).gather(-1, targets)[..., 0][mask]
            before = log_probs.detach()
            tokens = Tokens(log_probs, before, before, bucket["advantages"][mask], mask.sum(-1))
            losses, _ = ppo_clip.loss(tokens, self.settings)
            (losses.sum() / self.tokens).backward()
        self.apply()


def job(case: Case, folder: str, dtype: str) -> JobSpec:
    """A job of one update a step on the model in `folder`."""
    return parse_job(
        {
            "model": folder,
            "total_steps": 1000,
            "data": {"train": ["unused"]},
            "algorithm": {"importance": "off"},
            "learner": {"dtype": dtype},
            "optimizer": {"learning_rate": 1e-5, "freeze": list(case.freeze)},
        }
    )


def scored_group(case: Case, ordinal: int, inputs: Inputs) -> tuple[Scored, list[bytes]]:
    """A drawn group: noise for an image, random text tokens, alternating rewards."""
    random = np.random.default_rng(ordinal)
    buffer = BytesIO()
    Image.fromarray(random.integers(0, 256, (case.side, case.side, 3), dtype=np.uint8)).save(buffer, "PNG")
    data = buffer.getvalue()
    banned = set(inputs.banned)
    text = [token for token in range(inputs.vocab_size) if token not in banned]
    ids = [inputs.image_token_id] * case.image_tokens + random.choice(text, case.text).tolist()
    completions = []
    for length in random.integers(case.lengths[0], case.lengths[1] + 1, N).tolist():
        tokens, log_probs = random.choice(text, length), np.full(length, -3.0)
        completions.append(
            Completion(
                token_ids=pack_ints(tokens),
                log_probs=pack_floats(log_probs),
                text="",
                finish="stop",
                versions=[(0, length)],
            )
        )
    group = Completed(
        prompt=prompt_of(case, ordinal, data),
        completions=completions,
        prompt_ids=pack_ints(ids),
        image_grid_thw=[(1, case.side // 14, case.side // 14)],
        patch_size=14,
        replica="bench",
        started_at=0.0,
        finished_at=0.0,
    )
    rewards = [Reward(status="ok", final=float(index % 2)) for index in range(N)]
    return Scored(group=group, rewards=rewards, replica="bench", started_at=0.0, finished_at=0.0), [data]


def prompt_of(case: Case, ordinal: int, data: bytes) -> Prompt:
    """The prompt that names the image in `data`."""
    blob = BlobRef(digest=blake3.blake3(data).hexdigest(), size=len(data))
    return Prompt(
        job="bench",
        kind="train",
        ordinal=ordinal,
        source="drawn",
        task="math",
        sample_id=str(ordinal),
        turns=[ChatTurn(role="user", content="<image>")],
        images=[ImageRef(blob=blob, width=case.side, height=case.side)],
        reward=RewardSpec(verifier="mathverify", answer="1", ground_truth="1"),
        sampling=Sampling(n=N, temperature=1.0, max_new_tokens=512, seed=0),
    )


if __name__ == "__main__":
    main()
