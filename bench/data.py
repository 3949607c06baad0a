"""What reading, mixing and checking data cost: `python bench/data.py [--gb 1]`, JSON lines.

Rates are by CPU time of the process that works, so that other load does not count; memory is its peak (resident).
A data set is drawn under a temporary folder and deleted.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from services.data.mixing.mixture import Mixture, Weights
from shared.samples.schema import RATIO_NAMES, SCHEMA

GROUP = 100


def jpeg(rng: np.random.Generator, width: int, height: int) -> bytes:
    """A photo-like picture: smooth colours and some grain."""
    smooth = Image.fromarray(rng.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8))
    grain = rng.integers(-12, 12, (height, width, 1))
    pixels = np.asarray(smooth.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16) + grain
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def rows(pictures: list[bytes], count: int) -> Iterator[dict[str, Any]]:
    """Rows whose images differ in their last bytes, so that each is a blob of its own."""
    for number in range(count):
        data = pictures[number % len(pictures)] + number.to_bytes(8, "little")
        yield {
            "data_source": "bench",
            "images": [{"bytes": data, "path": None}],
            "prompt": [{"content": "<image>How many?", "role": "user"}],
            "ability": "counting",
            "reward_model": {
                "answer": "4",
                "ground_truth": "\\boxed{4}",
                "accuracy_ratio": 1.0,
                "format_ratio": 0.0,
                "verifier": "mathverify",
                "verifier_parm": {"det_verifier_normalized": None, "det_reward_ratio": dict.fromkeys(RATIO_NAMES)},
            },
            "extra_info": {"id": str(number), "image_path": None},
        }


def draw(folder: Path, *, width: int, height: int, total_bytes: int, group: int = GROUP) -> int:
    """Writes one file of about `total_bytes`; returns its rows."""
    rng = np.random.default_rng(0)
    pictures = [jpeg(rng, width, height) for _ in range(64)]
    count = max(group, total_bytes // (sum(map(len, pictures)) // len(pictures)))
    folder.mkdir(parents=True)
    with pq.ParquetWriter(folder / "a.parquet", SCHEMA, compression="none") as writer:
        stream, left = rows(pictures, count), count
        while left:
            lot = [next(stream) for _ in range(min(group, left))]
            writer.write_table(pa.Table.from_pylist(lot, SCHEMA), row_group_size=group)
            left -= len(lot)
    return count


STREAM = """
import time, json
from services.data.mixing.mixture import Mixture, Weights
from services.data.reading.rows import Rows
from services.data.reading.sources import index_sources
from shared.blobs.store import BlobStore
from shared.samples.files import open_files
began, cpu = time.perf_counter(), time.process_time()
sources = index_sources(open_files([sys.argv[1]]))
mixture = Mixture(0, {n: [len(s.rows) for s in segments] for n, segments in sources.items()}, [Weights(0, {})])
ready = Rows(BlobStore(sys.argv[2]), 65536)
count = sum(len(s.rows) for s in sources["bench"])
for ordinal in range(count):
    pick = mixture.at(ordinal)
    ready.at(sources[pick.source][pick.segment], pick.row)
    if ordinal == 0:
        first = time.perf_counter() - began
used = time.process_time() - cpu
print(json.dumps({"images": count, "first_prompt_s": round(first, 2), "images_per_cpu_s": round(count / used),
                  "peak_mb": peak_mb()}))
"""
PEAK = """
import re, sys
def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
"""
CHECK = """
import runpy
try:
    runpy.run_module("triune", run_name="__main__")
except SystemExit as end:
    code = end.code
sys.stderr.write(str(peak_mb()))
sys.exit(code)
"""


def stream(folder: Path, total_bytes: int) -> dict[str, Any]:
    draw(folder / "small", width=336, height=336, total_bytes=total_bytes)
    command = [sys.executable, "-c", PEAK + STREAM, str(folder / "small"), (folder / "blobs").as_uri()]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def check(folder: Path, *options: str) -> tuple[float, int]:
    """CPU seconds and peak megabytes of `triune data check` with one process."""
    arguments = ["data", "check", str(folder), "--workers", "1", "--json", *options]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", PEAK + CHECK, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, int(done.stderr)


def checks(folder: Path) -> Iterator[dict[str, Any]]:
    count = draw(folder / "large", width=1024, height=768, total_bytes=250_000_000)
    start, _ = check(folder / "large", "--sample", "1", "--fast")
    for name, options in (("--fast", ("--fast",)), ("full", ())):
        used, peak = check(folder / "large", *options)
        yield {"check": name, "images": count, "images_per_cpu_s": round(count / (used - start)), "peak_mb": peak}


def ordinals() -> dict[str, Any]:
    mixture = Mixture(1, {f"s{number}": [1000] * 100 for number in range(10)}, [Weights(0, {})])
    costs = {}
    for start in (1_000, 500_000, 990_000):
        mixture.at(start)
        began = time.process_time()
        for ordinal in range(start, start + 3000):
            mixture.at(ordinal)
        costs[str(start)] = round((time.process_time() - began) / 3000 * 1e6, 1)
    return {"ordinal_us_at": costs, "rows": 1_000_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=0.5, help="size of the streamed set")
    arguments = parser.parse_args()
    print_line(ordinals())
    with tempfile.TemporaryDirectory() as folder:
        for line in checks(Path(folder)):
            print_line(line)
        print_line({"stream": "336 px JPEG"} | stream(Path(folder), int(arguments.gb * 1e9)))


def print_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"bench": "data"} | line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
