"""Seconds a step of the whole loop against TRL's, taking turns: `make bench-trl`.

Prints a JSON line a case: by the clock, and by processor time (of all five services and their servers on our side),
which a busy machine disturbs less. Both sides train all components of the same random model with one update a step; a
completion runs to its limit of tokens on either side, and its reward is a number from its text. TRL is one process
with a thread for each core; the loop's rollout and learner have as many each, since on-policy they take turns. The
first step of either is not counted. With `max_staleness` 1 the two share the cores.
"""

import argparse
import asyncio
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

from bench.loop import REPLICAS, seconds
from shared.samples.schema import RATIO_NAMES, SCHEMA
from triune.demo.tiny_vlm import make_tiny_vlm
from triune.local.deployment import deployed

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


def job(model: Path, data: Path, case: Case, steps: int, max_staleness: int) -> dict[str, Any]:
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
        "learner": {"checkpoint_every": 0, "measure_uniform": True},
        "reward": {"plugins": ["drawn.py"]},
    }


async def ours(client: httpx.AsyncClient, document: dict[str, Any]) -> dict[str, float]:
    """Wall and processor seconds a step of a job, the latter from its first step on."""
    name = (await client.post("/v1/jobs", json=document)).raise_for_status().json()["job_id"]
    marks: list[tuple[int, float]] = []
    async with asyncio.timeout(LIMIT_S):
        while True:
            details = (await client.get(f"/v1/jobs/{name}")).raise_for_status().json()
            if details["state"] == "failed":
                raise RuntimeError(details["error"])
            steps = details["report"]["steps"]
            if steps > (marks[-1][0] if marks else 0):
                marks.append((steps, used()))
            if details["on_file"]:
                (first, start), (last, end) = marks[0], marks[-1]
                return {"wall": seconds(details["report"])["wall"], "cpu": (end - start) / (last - first)}
            await asyncio.sleep(0.2)


def used() -> float:
    """Processor seconds of all processes that this one has started and that run."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(each.user + each.system for each in times)


def theirs(python: Path, model: Path, pictures: Path, case: Case, steps: int) -> dict[str, Any]:
    """Wall and processor seconds a step of TRL."""
    numbers = {"prompts": case.prompts, "completions": N, "tokens": TOKENS, "steps": steps, "threads": os.cpu_count()}
    options = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
    command = [str(python), str(Path(__file__).with_name("theirs.py")), str(model), str(pictures)]
    made = subprocess.run(
        [*command, "--question", QUESTION, *options],
        env={**os.environ, "PYTHONPATH": str(SITE)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=LIMIT_S,
        text=True,
    )
    return dict(json.loads(made.stdout.splitlines()[-1]))


async def measure(case: Case, python: Path, steps: int, rounds: int, folder: Path) -> dict[str, Any]:
    """One line: seconds a step and how many times as many groups a second."""
    pictures = images(folder / "images", case, 4 * case.prompts)
    data = rows(pictures, folder / "data")
    model = make_tiny_vlm(folder / "model", [QUESTION] * 8)
    (folder / "plugins").mkdir()
    (folder / "plugins" / "drawn.py").write_text(PLUGIN)
    threads = dict.fromkeys(REPLICAS, 1) | dict.fromkeys(("rollout", "learner"), os.cpu_count() or 1)
    found: dict[str, list[dict[str, float]]] = {"on_policy": [], "stale": [], "trl": []}
    version = ""
    async with (
        deployed(
            folder / "runs",
            folder / "local",
            replicas=REPLICAS,
            threads=threads,
            env={"TRIUNE_REWARD_PLUGINS": str(folder / "plugins")},
        ) as system,
        httpx.AsyncClient(base_url=system.api_url, headers=system.headers, timeout=30.0) as client,
    ):
        for _ in range(rounds):
            for name, eta in (("on_policy", 0), ("stale", 1)):
                found[name].append(await ours(client, job(model, data, case, steps, eta)))
            line = await asyncio.to_thread(theirs, python, model, pictures, case, steps)
            version = str(line.pop("trl"))
            found["trl"].append(line)
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
    rounded = {name: round(value, 3) for name, value in (medians | ratios).items()}
    return {"bench": "trl", "trl": version, "pixels": case.side, "prompts": case.prompts, **rounded}


def main() -> None:
    """Every case, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="of the environment that has TRL")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="numbers of the cases, from 0")
    wanted = parser.parse_args()
    for number in wanted.cases:
        with tempfile.TemporaryDirectory() as made:
            line = asyncio.run(
                measure(CASES[number], wanted.python.absolute(), wanted.steps, wanted.rounds, Path(made))
            )
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
