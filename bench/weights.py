"""What a version of the weights costs: `python bench/weights.py` prints JSON lines.

Deltas: a language model of more than 100 M parameters, published in bfloat16 after each of 20 AdamW steps at rate 1e-6.
Sync: 1 GiB of tensors from the learner's memory to the file that a replica of the same host maps, against a copy of a
file of as many bytes, taken in turns: the best of each, since whatever else runs only adds, and only from the third
delta in a row on is there a file to be written over. Memory: what publishing
adds to the learner's peak, in a process of its own.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from services.learner.publishing.exports import FileSink
from shared.blobs.store import BlobStore
from shared.blobs.weights import Published, WeightsAt, WeightsStore

STEPS = 20
GIB = 1 << 30
ROUNDS = 5
SHARE = 0.01
"""Of the numbers of the 1 GiB that a version changes."""


class Learner:
    """Publishes from a folder of its own."""

    def __init__(self, root: Path, name: str = "learner") -> None:
        self.blobs = BlobStore((root / "blobs").as_uri())
        self.store = WeightsStore(self.blobs, root / name)
        self.last: Published | None = None
        self.stall_s = 0.0
        """For which a step waited for the last version: its snapshot; the rest runs beside the next step."""

    def publish(self, version: int, tensors: Mapping[str, Tensor], *, whole: bool = False) -> Published:
        """A delta where there is a version before, or `whole` tensors."""
        base = self.last.at if self.last and not whole else None
        snapshot = self.store.snapshot(base)
        sink = FileSink(snapshot)
        sink.begin({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
        for name, tensor in tensors.items():
            sink.put(name, tensor.detach().contiguous())
        snapshot.finish()
        self.stall_s = snapshot.seconds
        made = self.store.publish(snapshot, version=version, frozen=None, base=base, anchor=base is None)
        snapshot.discard()
        if self.last:
            self.last.at.close()
        self.last = made
        return made


def load(at: WeightsAt, into: Mapping[str, Tensor]) -> None:
    """What a replica does with the files: copy what changed."""
    for path in at.files:
        with safe_open(path, "pt") as file:
            for name in at.changed.intersection(file.keys()):
                into[name].copy_(file.get_tensor(name))


# ---------------------------------------------------------------- deltas of real steps


def deltas(root: Path) -> Iterator[dict[str, object]]:
    """Bytes of a delta against the whole, over real steps, and whether a far replica has the learner's bits."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    masters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(masters.values(), lr=1e-6, betas=(0.9, 0.999), weight_decay=0.01, fused=True)
    learner, replica = Learner(root), WeightsStore(BlobStore((root / "blobs").as_uri()), root / "far")
    shares, equal, at = [], True, None
    for step in range(STEPS + 1):
        if step:
            ids = torch.randint(0, 32000, (2, 32))
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        published = {name: master.detach().bfloat16() for name, master in masters.items()}
        made = learner.publish(step, published)
        before, at = at, replica.materialise(made.at.ref, since=at)
        if before:
            before.close()
        equal = equal and holds(at, published)
        shares += [made.sent / made.full] if step else []
    count = sum(one.numel() for one in masters.values())
    yield {
        "bench": "weights", "what": "delta at lr 1e-6, bf16", "parameters": count, "steps": STEPS,
        "bit_exact": equal, "share_median": statistics.median(shares), "share_max": max(shares),
    }  # fmt: skip


def holds(at: WeightsAt, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the files have exactly these bits."""
    seen = 0
    for path in at.files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (no mapping)
                seen += torch.equal(file.get_tensor(name), tensors[name])
    return seen == len(tensors)


# ---------------------------------------------------------------- one host


def big() -> dict[str, Tensor]:
    """1 GiB in bfloat16: layers of 16 MiB and one embedding of 256 MiB."""
    torch.manual_seed(0)
    sizes = {"embed": 128 << 20} | {f"layer.{number}": 8 << 20 for number in range(48)}
    return {name: (torch.randn(size) * 0.02).bfloat16().reshape(-1, 1024) for name, size in sizes.items()}


def move(tensors: Mapping[str, Tensor]) -> None:
    """Flip the lowest bit of about `SHARE` of the numbers."""
    for tensor in tensors.values():
        bits = tensor.reshape(-1).view(torch.int16)
        bits[torch.randint(0, len(bits), (int(SHARE * len(bits)),))] ^= 1


def sync(root: Path) -> Iterator[dict[str, object]]:
    """Seconds from the learner's memory to a replica's on the same host, by part, against a copy of the file."""
    tensors, target = big(), {name: torch.empty_like(tensor) for name, tensor in big().items()}
    learner = Learner(root)
    replica = WeightsStore(learner.blobs, root / "learner")  # knows nothing but what lies in the host's folder
    last = replica.materialise(learner.publish(0, tensors).at.ref)
    copies, syncs = list[Taken](), dict[str, list[Taken]](whole=[], delta=[])
    parts = []
    for number, kind in enumerate(["whole"] * ROUNDS + ["delta"] * ROUNDS, 1):
        move(tensors)
        _, copy = timed(shutil.copyfile, last.files[0], root / "copy")
        (root / "copy").unlink()
        made, publish = timed(learner.publish, number, tensors, whole=kind == "whole")
        at, found = timed(replica.materialise, made.at.ref, since=last)
        _, loaded = timed(load, at, target)
        last.close()
        last = at
        copies.append(copy)
        syncs[kind].append(Taken(publish.wall + found.wall, publish.cpu + found.cpu))
        parts.append(
            {
                "kind": kind, "copy": copy.wall, "stall": learner.stall_s, "publish": publish.wall,
                "materialise": found.wall, "load": loaded.wall,
            }
        )  # fmt: skip
        if not all(torch.equal(target[name], tensors[name]) for name in tensors):
            raise SystemExit("the replica has other bits than the learner")
    copy = best(copies)
    for kind, rounds in syncs.items():
        taken = best(rounds)
        yield {
            "bench": "weights", "what": f"sync of 1 GiB on one host, {kind}, in copies of the file",
            "wall": taken.wall / copy.wall, "cpu": taken.cpu / copy.cpu,
        }  # fmt: skip
    yield {"bench": "weights", "what": "sync of 1 GiB on one host, seconds", "rounds": parts}


class Taken(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


def best(rounds: Sequence[Taken]) -> Taken:
    return Taken(min(one.wall for one in rounds), min(one.cpu for one in rounds))


def timed(work: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, Taken]:
    """The result of a call, and what it took once the disk is at rest: who writes more than it can take is slowed."""
    os.sync()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work(*arguments, **options)
    return result, Taken(time.perf_counter() - wall, time.process_time() - cpu)


def memory(root: Path) -> None:
    """Print what publishing 1 GiB, whole and then as deltas, adds to this process's peak, as a share of 1 GiB."""
    tensors, learner = big(), Learner(root)
    move(tensors)
    Path("/proc/self/clear_refs").write_text("5")  # what came before is no peak of publishing
    before = peak()
    for number in range(4):
        learner.publish(number, tensors)
        move(tensors)
    say({"bench": "weights", "what": "learner's added host memory", "of_weights": (peak() - before) / GIB})


def say(line: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def peak() -> int:
    """This process's largest resident set since the last reset, in bytes; pages of mapped files included."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if sys.argv[1:] == ["memory"]:
            memory(root)
            return 0
        for part in (deltas, sync):
            (root / part.__name__).mkdir()
            for line in part(root / part.__name__):
                say(line)
            shutil.rmtree(root / part.__name__)
    return subprocess.run([sys.executable, __file__, "memory"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
