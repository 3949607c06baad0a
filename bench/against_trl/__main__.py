"""Seconds a step of the whole loop against TRL's, taking turns: `make bench-trl`.

Prints a JSON line a case: by the clock, and by processor time (of all five services and their servers on our side),
which a busy machine disturbs less. Both sides train all components of the same random model with one update a step; a
completion runs to its limit of tokens on either side, and its reward is a number from its text. TRL is one process
with a thread for each core, which wait as torch has them wait; rollout and learner have as many as `triune demo` gives
them. The first step of either is not counted.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bench.against_trl.model import make_model
from bench.loop import REPLICAS, seconds
from shared.samples.schema import RATIO_NAMES, SCHEMA
from triune.demo.main import compute_threads
from triune.demo.tiny_vlm import make_tiny_vlm
from triune.local.deployment import Deployment, deployed

ROOT = Path(__file__).parents[2]
SITE = ROOT / "services/rollout/engines/vllm/site"
"""Makes torchvision, which TRL's side needs for its processor, importable beside a CPU torch."""
QUESTION = "count the red circles"
N, TOKENS = 8, 32
PLUGIN = '''"""A number from the text."""

import zlib


def drawn(completion, spec, context):
    """From 0 to 1, by the text alone."""
    return zlib.crc32(completion.encode()) % 1000 / 1000
'''
LIMIT_S = 3600.0


@dataclass(frozen=True)
class Case:
    """`prompts` a step, each with one square image of `side` pixels."""

    side: int
    prompts: int


CASES = [Case(112, 8), Case(448, 8), Case(112, 32)]
MODELS = {"larger": make_model, "demo": make_tiny_vlm}
THEIR_STEPS = 6
"""Of TRL's, whose median is taken; a step at 448 pixels takes it many seconds."""
LOOK_S = 1.0
"""How often the job is looked at: each look makes a report, which costs processor time."""


def images(folder: Path, case: Case, count: int) -> Path:
    """`count` images of noise as PNG files."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(random.integers(0, 256, (case.side, case.side, 3), dtype=np.uint8)).save(
            folder / f"{index:04d}.png"
        )
    return folder


def rows(pictures: Path, out: Path) -> Path:
    """The same images as a data set of ours."""
    out.mkdir()
    found = [
        {
            "data_source": "noise",
            "images": [{"bytes": path.read_bytes(), "path": path.name}],
            "prompt": [{"content": f"<image>{QUESTION}", "role": "user"}],
            "ability": "math",
            "reward_model": {
                "answer": "1",
                "ground_truth": "1",
                "accuracy_ratio": 1.0,
                "format_ratio": 0.0,
                "verifier": "drawn",
                "verifier_parm": {"det_verifier_normalized": None, "det_reward_ratio": dict.fromkeys(RATIO_NAMES)},
            },
            "extra_info": {"id": path.stem, "image_path": path.name},
        }
        for path in sorted(pictures.glob("*.png"))
    ]
    pq.write_table(pa.Table.from_pylist(found, SCHEMA), out / "noise.parquet")
    return out


def job(model: Path, data: Path, case: Case, dtype: str, steps: int, max_staleness: int) -> dict[str, Any]:
    """Our side's job file."""
    return {
        "name": "trl",
        "model": str(model),
        "total_steps": steps,
        "data": {"train": [str(data)], "cot_prompts": False},
        "algorithm": {
            "prompts_per_step": case.prompts,
            "samples_per_prompt": N,
            "max_staleness": max_staleness,
            "importance": "on" if max_staleness else "off",
        },
        "sampling": {"max_new_tokens": TOKENS},
        "optimizer": {"learning_rate": 1e-6, "freeze": []},
        "learner": {"checkpoint_every": 0, "measure_uniform": True, "dtype": dtype},
        "reward": {"plugins": ["drawn.py"]},
    }


async def ours(
    folder: Path, model: Path, data: Path, case: Case, dtype: str, steps: int, max_staleness: int
) -> dict[str, Any]:
    """Wall and processor seconds a step of a job on services of its own, the latter in all and by service."""
    async with deployed(
        folder / "runs",
        folder / "local",
        replicas=REPLICAS,
        threads=compute_threads(max_staleness),
        env={"TRIUNE_REWARD_PLUGINS": str(folder / "plugins")},
    ) as system:
        return await followed(system, job(model, data, case, dtype, steps, max_staleness))


async def followed(system: Deployment, document: dict[str, Any]) -> dict[str, Any]:
    """Submit a job and wait until it is on file."""
    marks: list[tuple[int, dict[str, float]]] = []
    async with (
        asyncio.timeout(LIMIT_S),
        httpx.AsyncClient(base_url=system.api_url, headers=system.headers, timeout=30.0) as client,
    ):
        name = (await client.post("/v1/jobs", json=document)).raise_for_status().json()["job_id"]
        while True:
            details = (await client.get(f"/v1/jobs/{name}")).raise_for_status().json()
            if details["state"] == "failed":
                raise RuntimeError(details["error"])
            steps = details["report"]["steps"]
            if steps > (marks[-1][0] if marks else 0):
                marks.append((steps, used()))
            if details["on_file"]:
                (first, start), (last, end) = marks[0], marks[-1]
                by = {service: (end[service] - start[service]) / (last - first) for service in end}
                return {"wall": seconds(details["report"])["wall"], "cpu": sum(by.values()), "by": by}
            await asyncio.sleep(LOOK_S)


def used() -> dict[str, float]:
    """Processor seconds so far of all processes that this one has started and that run, by service."""
    found = dict.fromkeys((*REPLICAS, "servers"), 0.0)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times, words = child.cpu_times(), child.cmdline()
            service = next((service for service in REPLICAS if service in words), None)
            found[service or ("reward" if "multiprocessing" in " ".join(words) else "servers")] += (
                times.user + times.system
            )
    return found


def theirs(python: Path, model: Path, pictures: Path, case: Case, dtype: str) -> dict[str, Any]:
    """Wall and processor seconds a step of TRL."""
    sizes = {"prompts": case.prompts, "completions": N, "tokens": TOKENS}
    numbers = sizes | {"steps": THEIR_STEPS, "threads": os.cpu_count()}
    options = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
    command = [str(python), str(Path(__file__).with_name("theirs.py")), str(model), str(pictures)]
    made = subprocess.run(
        [*command, "--question", QUESTION, "--dtype", dtype, *options],
        env={**os.environ, "PYTHONPATH": str(SITE)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=LIMIT_S,
        text=True,
    )
    return dict(json.loads(made.stdout.splitlines()[-1]))


def measure(case: Case, size: str, dtype: str, python: Path, steps: int, rounds: int, folder: Path) -> dict[str, Any]:
    """One line: seconds a step and how many times as many groups a second."""
    pictures = images(folder / "images", case, 4 * case.prompts)
    data = rows(pictures, folder / "data")
    model = MODELS[size](folder / "model", [QUESTION] * 8)
    (folder / "plugins").mkdir()
    (folder / "plugins" / "drawn.py").write_text(PLUGIN)
    found: dict[str, list[dict[str, Any]]] = {"on_policy": [], "stale": [], "trl": []}
    for _ in range(rounds):
        found["on_policy"].append(asyncio.run(ours(folder, model, data, case, dtype, steps, 0)))
        found["trl"].append(theirs(python, model, pictures, case, dtype))
        found["stale"].append(asyncio.run(ours(folder, model, data, case, dtype, steps, 1)))
    medians = {
        f"{name}_{kind}_s": statistics.median(one[kind] for one in rows)
        for name, rows in found.items()
        for kind in ("wall", "cpu")
    }
    ratios = {
        f"{name}_{kind}_ratio": medians[f"trl_{kind}_s"] / medians[f"{name}_{kind}_s"]
        for name in ("on_policy", "stale")
        for kind in ("wall", "cpu")
    }
    by = {service: round(value, 3) for service, value in found["on_policy"][-1]["by"].items()}
    rounded = {name: round(value, 3) for name, value in (medians | ratios).items()}
    line = {"bench": "trl", "trl": found["trl"][0]["trl"], "model": size, "dtype": dtype}
    line |= {"pixels": case.side, "prompts": case.prompts}
    return line | rounded | {"on_policy_cpu_by_service": by}


def main() -> None:
    """Every case, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="of the environment that has TRL")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", choices=MODELS, default="larger", help="1.9 million parameters, or the demo's 0.6")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of the learner; of all that TRL does, without float32 masters",
    )
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="numbers of the cases, from 0")
    wanted = parser.parse_args()
    for number in wanted.cases:
        with tempfile.TemporaryDirectory() as made:
            python = wanted.python.absolute()
            line = measure(CASES[number], wanted.model, wanted.dtype, python, wanted.steps, wanted.rounds, Path(made))
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
