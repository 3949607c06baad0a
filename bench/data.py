"""What reading, mixing and checking data cost, as JSON lines: `python bench/data.py [PART …] [--gb 20]`.

Parts are `ordinals`, `checks`, `images`, `stream` (of so many gigabytes) and `group` (one of 2 GB); none: all.

Rates are by CPU time of the process that works, so that other load does not count; memory is its peak (resident).
A data set is drawn under a temporary folder and deleted.
"""

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from services.data.mixing.mixture import Mixture, Weights
from shared.samples.schema import RATIO_NAMES, SCHEMA

GROUP = 100
GB = 1_000_000_000


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


def lots(pictures: list[bytes], count: int, size: int) -> Iterator[pa.Table]:
    """The rows of `rows` as tables of `size` rows."""
    stream = rows(pictures, count)
    while lot := list(islice(stream, size)):
        yield pa.Table.from_pylist(lot, SCHEMA)


def draw(folder: Path, *, width: int, height: int, total_bytes: int) -> int:
    """Writes files of about 1 GB with row groups of `GROUP` rows, about `total_bytes` in all; returns their rows."""
    rng = np.random.default_rng(0)
    pictures = [jpeg(rng, width, height) for _ in range(64)]
    count = max(GROUP, total_bytes // (sum(map(len, pictures)) // len(pictures)))
    folder.mkdir(parents=True)
    of_a_file = max(1, count * GB // max(total_bytes, GB) // GROUP)
    tables = lots(pictures, count, GROUP)
    number = 0
    while file := list(islice(tables, 1)):
        with pq.ParquetWriter(folder / f"{number:03d}.parquet", SCHEMA, compression="none") as writer:
            for table in chain(file, islice(tables, of_a_file - 1)):
                writer.write_table(table)
        number += 1
    return count


def draw_one_group(path: Path, total_bytes: int) -> int:
    """Writes one file with one row group of about `total_bytes`, which this process holds whole; returns its rows."""
    rng = np.random.default_rng(0)
    pictures = [jpeg(rng, 336, 336) for _ in range(64)]
    count = total_bytes // (sum(map(len, pictures)) // len(pictures))
    path.parent.mkdir(parents=True)
    pq.write_table(pa.concat_tables(lots(pictures, count, GROUP)), path, compression="none", row_group_size=count)
    return count


STREAM = """
import time, json
from collections import deque
from services.data.config import DataConfig
from services.data.mixing.order import TrainingOrder
from services.data.reading.rows import Rows
from services.data.reading.sources import index_sources
from shared.blobs.store import BlobStore
from shared.jobs.document import parse_job
from shared.messages import Prompt
from shared.samples.files import open_files
began, cpu = time.perf_counter(), time.process_time()
spec = parse_job({"model": "m", "total_steps": 1, "data": {"train": [sys.argv[1]], "epochs": 1}})
blobs = BlobStore(sys.argv[2])
sources = index_sources(open_files(spec.data.train))
order = TrainingOrder("bench", spec, sources, Rows(blobs, DataConfig().rows_kept), [])
stored = deque()
for ordinal in range(order.total):
    prompt = order.at(ordinal)
    assert isinstance(prompt, Prompt), prompt
    if ordinal == 0:
        first = time.perf_counter() - began
    stored.append(prompt.images[0].blob)
    if len(stored) > 20_000:  # as the learner deletes what a job has used; else the images would be on the disk twice
        blobs.delete(stored.popleft())
used, took = time.process_time() - cpu, time.perf_counter() - began
rates = {"images_per_cpu_s": round(order.total / used), "images_per_s": round(order.total / took)}
print(json.dumps({"images": order.total, "first_prompt_s": round(first, 2), **rates, "peak_mb": peak_mb()}))
"""
PEAK = """
import re, sys
def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
"""
COMMAND = """
import runpy
try:
    runpy.run_module("triune", run_name="__main__")
except SystemExit as end:
    code = end.code
sys.stderr.write(" " + str(peak_mb()))
sys.exit(code)
"""


def stream(folder: Path, total_bytes: int) -> Iterator[dict[str, Any]]:
    """Every prompt of an epoch made, its image in the blob store, in one process."""
    draw(folder / "small", width=336, height=336, total_bytes=total_bytes)
    size = sum(path.stat().st_size for path in (folder / "small").iterdir())
    command = [sys.executable, "-c", PEAK + STREAM, str(folder / "small"), (folder / "blobs").as_uri()]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    yield {"stream": "336 px JPEG", "gb": round(size / GB, 1)} | found


def one_group(folder: Path) -> Iterator[dict[str, Any]]:
    """A row group of 2 GB: refused with the command that rewrites it, which then runs."""
    path = folder / "whole/a.parquet"
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # its memory goes back with it
        count = pool.submit(draw_one_group, path, 2 * GB).result()
    refused, peak = command_peak("data", "check", str(path))
    yield {"row_group_gb": 2, "check": refused.stdout.decode().strip(), "exit": refused.returncode, "peak_mb": peak}
    written, peak = command_peak("data", "convert", str(path), str(folder / "rewritten"), "--preview", "0", "--json")
    again, again_peak = command_peak("data", "check", str(folder / "rewritten"), "--fast", "--workers", "1", "--json")
    assert json.loads(written.stdout)["rows"] == count == json.loads(again.stdout)["rows"] and not again.returncode
    yield {"row_group_gb": 2, "convert": "rewritten", "rows": count, "peak_mb": peak, "then_check_mb": again_peak}


def command_peak(*arguments: str) -> tuple["subprocess.CompletedProcess[bytes]", int]:
    """What `triune` prints with these arguments, and the megabytes it took at most."""
    command = [sys.executable, "-c", PEAK + COMMAND, *arguments]
    done = subprocess.run(command, check=False, capture_output=True)
    return done, int(done.stderr.split()[-1])


def check(folder: Path, *options: str) -> tuple[float, int]:
    """CPU seconds and peak megabytes of `triune data check` with one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done, peak = command_peak("data", "check", str(folder), "--workers", "1", "--json", *options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not done.returncode, done.stdout
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def checks(folder: Path) -> Iterator[dict[str, Any]]:
    count = draw(folder / "large", width=1024, height=768, total_bytes=250_000_000)
    start, _ = check(folder / "large", "--sample", "1", "--fast")
    for name, options in (("--fast", ("--fast",)), ("full", ())):
        used, peak = check(folder / "large", *options)
        yield {"check": name, "images": count, "images_per_cpu_s": round(count / (used - start)), "peak_mb": peak}


def images(folder: Path) -> dict[str, Any]:
    """CPU milliseconds of one 1024 x 768 JPEG for Qwen2.5-VL's tower: prepared, and as another process finds it."""
    from shared.models.hf.host_images import HostImages
    from shared.models.hf.loading import open_inputs
    from triune.demo.tiny_vlm import make_tiny_vlm

    model = make_tiny_vlm(folder / "model", ["user", "assistant"] * 4, seed=0)
    kept = HostImages(folder / "images", "bench", GB)
    alone, first, second = open_inputs(model), open_inputs(model, kept=kept), open_inputs(model, kept=kept)
    data = [jpeg(np.random.default_rng(number), 1024, 768) for number in range(24)]
    prepared = cpu_ms(lambda one: alone.image(one, alone=True), data)
    return {
        "prepared_ms": prepared,
        "prepared_and_kept_ms": cpu_ms(lambda one: first.image(one, alone=True), data),
        "found_ms": cpu_ms(lambda one: second.image(one, alone=True), data),
    }


def cpu_ms(work: Callable[[bytes], object], data: list[bytes]) -> float:
    """The median over `data`."""
    costs = []
    for one in data:
        began = time.process_time()
        work(one)
        costs.append(time.process_time() - began)
    return round(statistics.median(costs) * 1e3, 1)


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
    parser.add_argument("parts", nargs="*", default=["ordinals", "checks", "images", "stream", "group"], metavar="PART")
    parser.add_argument("--gb", type=float, default=0.5, help="size of the streamed set")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
            "ordinals": lambda: [ordinals()],
            "checks": lambda: checks(folder),
            "images": lambda: [images(folder)],
            "stream": lambda: stream(folder, int(arguments.gb * GB)),
            "group": lambda: one_group(folder),
        }
        for part in arguments.parts:
            for line in parts[part]():
                print_line(line)


def print_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"bench": "data"} | line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
