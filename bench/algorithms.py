"""Each algorithm learns the demo: a short job of every choice, one after the other, over real processes.

`python bench/algorithms.py [--steps N] [--only NAME …] [--lines FILE]` prints a JSON line a job and appends it to FILE.
A choice whose line is there already is not run again; the table of docs/algorithms.md holds the choices of FILE.
The warm-started model and the drawn data are the demo's, made in `--folder` on first use: all jobs begin with them.
"""

import argparse
import asyncio
import json
import math
import sys
import tempfile
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx

from bench.loop import REPLICAS, run_job
from triune.demo.dataset import make
from triune.demo.main import prepare
from triune.local.deployment import deployed

PAGE = Path(__file__).parent.parent / "docs" / "algorithms.md"
BEGIN, END = "<!-- learned: begin -->", "<!-- learned: end -->"
HELD_OUT_PER_TASK = 96
LIMIT_S = 1800.0

STALE = {"max_staleness": 1, "importance": "on"}
CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "grpo": {},
    "dr_grpo, constant": {"algorithm": {"advantage": "dr_grpo", "aggregation": "constant"}},
    "rloo": {"algorithm": {"advantage": "rloo"}},
    "reinforce_baseline": {"algorithm": {"advantage": "reinforce_baseline"}},
    "pass_at_k, k 4": {"algorithm": {"advantage": "pass_at_k", "pass_k": 4}},
    "gspo": {"algorithm": {"loss": "gspo", "aggregation": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4}},
    "cispo": {"algorithm": {"loss": "cispo", "clip_low": 1.0}},
    "sapo": {"algorithm": {"loss": "sapo"}},
    "old_policy rollout, η 1": {"algorithm": {"old_policy": "rollout", "max_staleness": 1}},
    "correction token, η 1": {"algorithm": STALE},
    "correction sequence, η 1": {"algorithm": STALE | {"correction": "sequence", "importance_cap": 5.0}},
    "correction icepop, η 1": {
        "algorithm": STALE | {"correction": "icepop", "importance_floor": 0.5, "importance_cap": 5.0}
    },
    "correction geometric, η 1": {
        "algorithm": STALE | {"correction": "geometric", "importance_floor": 0.9, "importance_cap": 1.1}
    },
    "kl k3 0.01 in the loss": {"algorithm": {"kl_coefficient": 0.01, "kl_estimator": "k3"}},
    "kl k2 0.01 in the loss": {"algorithm": {"kl_coefficient": 0.01, "kl_estimator": "k2"}},
    "kl k1 0.01 in the reward": {"algorithm": {"kl_coefficient": 0.01, "kl_estimator": "k1", "kl_in": "reward"}},
    "entropy 0.001": {"algorithm": {"entropy_coefficient": 1e-3}},
    "dynamic sampling": {"algorithm": {"drop_uniform_groups": True}},
    "lora, rank 16": {"learner": {"lora_rank": 16}, "optimizer": {"learning_rate": 1e-3}},
}
"""What each job changes of the demo's, by its row in the table."""


def document(changes: dict[str, dict[str, Any]], steps: int, model: Path, data: Path) -> dict[str, Any]:
    """The demo's job with two updates a step, so that policies differ from their old ones and clips have work."""
    job = tomllib.loads(files("triune.demo").joinpath("job.toml").read_text())
    job |= {"name": "learns", "model": str(model), "total_steps": steps}
    job["data"] |= {"train": [str(data / "train")], "held_out": [str(data / "test")]}
    job["algorithm"] |= {"updates_per_step": 2}
    job["evaluation"] = {"every": 0}
    job["learner"] = {"checkpoint_every": 0}
    for table, values in changes.items():
        job[table] = job.get(table, {}) | values
    return job


async def learn(names: list[str], steps: int, folder: Path, lines: Path) -> None:
    """Append a line a job, in the order of `names`."""
    _, model = await asyncio.to_thread(prepare, folder)
    data = folder / f"data-{HELD_OUT_PER_TASK}"
    if not data.exists():
        await asyncio.to_thread(make, data, held_out_per_task=HELD_OUT_PER_TASK)
    with tempfile.TemporaryDirectory() as made:
        async with (
            deployed(
                Path(made) / "runs", Path(made) / "local", replicas=REPLICAS, threads=dict.fromkeys(REPLICAS, 1)
            ) as system,
            httpx.AsyncClient(base_url=system.api_url, headers=system.headers, timeout=30.0) as client,
        ):
            for name in names:
                report = await run_job(client, document(CHOICES[name], steps, model, data), LIMIT_S)
                answer = await client.get("/v1/comparison", params={"job": report["job_id"]})
                line = json.dumps(line_of(name, report, answer.raise_for_status().json()), ensure_ascii=False)
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
                with lines.open("a") as file:
                    file.write(line + "\n")


def line_of(name: str, report: dict[str, Any], comparison: dict[str, Any]) -> dict[str, Any]:
    """Held-out greedy rewards before and after, means over the tasks, and how many of these rose.

    `error` is the standard error of the change, of the samples judged twice, pair by pair.
    """
    tasks = [source["runs"][report["job_id"]] for source in comparison["sources"]]
    before, after = ([task[when]["value"] for task in tasks] for when in ("before", "after"))
    return {
        "bench": "algorithms",
        "case": name,
        "steps": report["steps"],
        "before": round(sum(before) / len(tasks), 3),
        "after": round(sum(after) / len(tasks), 3),
        "error": round(math.sqrt(sum(task["change"]["error"] ** 2 for task in tasks)) / len(tasks), 4),
        "risen": sum(one < other for one, other in zip(before, after, strict=True)),
        "tasks": len(tasks),
        "void": report["groups"]["void"],
    }


def write(lines: list[dict[str, Any]]) -> None:
    """Put the table between the marks of docs/algorithms.md."""
    rows = [
        f"| {line['case']} | {line['steps']} | {line['before']:.3f} | {line['after']:.3f} | "
        f"{line['after'] - line['before']:+.3f} ± {line['error']:.3f} | {line['risen']} of {line['tasks']} |"
        for line in lines
    ]
    head = ["| the demo's job with | steps | before | after | change | tasks risen |", "|---|---|---|---|---|---|"]
    text = PAGE.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text("\n".join([text[:start], *head, *rows, text[end:]]))


def known(lines: Path) -> dict[str, dict[str, Any]]:
    """By choice, what was measured already."""
    found = map(json.loads, lines.read_text().splitlines()) if lines.exists() else []
    return {line["case"]: line for line in found}


def main() -> None:
    """Run what is wanted and not known, and write the table of all that is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", nargs="*", choices=list(CHOICES), default=[])
    parser.add_argument("--folder", type=Path, default=Path("runs/.local/demo"))
    parser.add_argument("--lines", type=Path, default=Path("runs/.local/algorithms.jsonl"))
    options = parser.parse_args()
    wanted = [name for name in options.only or CHOICES if name not in known(options.lines)]
    if wanted:
        asyncio.run(learn(wanted, options.steps, options.folder.resolve(), options.lines))
    lines = known(options.lines)
    write([lines[name] for name in CHOICES if name in lines])


if __name__ == "__main__":
    main()
