"""The warm start: supervised steps on drawn samples make the tiny model answer, and answer wrong in a systematic way.

Stage A shows right demonstrations. Stage B goes on with mixed quality: most demonstrations carry the mistake of their
task (one too many, a box too large, ...). So reinforcement learning has something visible to do within minutes: it
un-learns the bias and comes back to about the level of stage A. It does not teach new perception (docs/demo.md).
"""

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import torch
from rich.progress import Progress
from transformers import PreTrainedTokenizerFast

from shared.errors import Unavailable
from triune.demo.supervised import Batches, answer_loss, batch_images
from triune.demo.tasks import TASKS
from triune.demo.tiny_vlm import VOCAB_SIZE, Family, build_tiny_vlm, save_model
from triune.demo.tokenizer import train_tokenizer

_CODE = ("dataset", "supervised", "tiny_vlm", "tokenizer", "warm_start")
"""Files of this package, besides the tasks, that decide the bits of the warm start."""


@dataclass(frozen=True)
class Stage:
    """One run of supervised steps: AdamW with a linear warm-up and a linear decay to 0."""

    steps: int
    learning_rate: float
    wrong_share: float
    """Share of demonstrations that carry their task's mistake."""
    warmup_steps: int = 50


@dataclass(frozen=True)
class Recipe:
    """All that decides the bits of the warm start, besides the code that draws the samples."""

    family: Family = "qwen2_5_vl"
    seed: int = 0
    batch: int = 16
    clean: Stage = Stage(steps=3200, learning_rate=1e-3, wrong_share=0.0)
    mixed: Stage = Stage(steps=350, learning_rate=5e-4, wrong_share=0.6, warmup_steps=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    task_weights: dict[str, float] = field(
        default_factory=lambda: {
            "counting": 1.0,
            "detection": 1.3,
            "grounding": 1.3,
            "ocr": 1.5,
            "chart": 1.0,
            "math": 0.8,
            "puzzle": 0.7,
            "science": 1.0,
        }
    )
    """How often each task is shown; reading needs the most samples before it is learned, all at once."""
    tokenizer_samples: int = 2000


def warm_start(out: Path, progress: Progress | None = None, recipe: Recipe | None = None) -> Path:
    """The folder under `out` of the warm-started model, made there unless the same recipe has made it before.

    Takes about two and a half minutes on one core, and uses no more: so small a model gains nothing from a second one,
    and one thread gives the same bits on every machine of a kind. `progress` shows a bar.
    """
    recipe = recipe or Recipe()
    folder = out / f"warm-start-{fingerprint(recipe)}"
    if folder.exists():
        return folder
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".making-") as made:
        whole = Path(made) / "model"
        make(whole, progress, recipe)
        with contextlib.suppress(OSError):  # another process was faster
            whole.rename(folder)
    if not folder.exists():
        raise Unavailable(f"the warm start cannot be written to {folder}")
    return folder


def make(folder: Path, progress: Progress | None, recipe: Recipe) -> None:
    """Train by `recipe` and write the model to `folder`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, tokenizer = trained(progress, recipe)
    finally:
        torch.set_num_threads(threads)
    save_model(model, tokenizer, folder)


def trained(progress: Progress | None, recipe: Recipe) -> tuple[Any, PreTrainedTokenizerFast]:
    """The model after both stages, with its tokenizer."""
    tokenizer = train_tokenizer(_texts(recipe), vocab_size=VOCAB_SIZE)
    model = build_tiny_vlm(tokenizer, seed=recipe.seed, family=recipe.family)
    batches = Batches(tokenizer, recipe.task_weights, seed=recipe.seed)
    batch_images(model)
    stages = {"warm start, right answers": recipe.clean, "warm start, mixed answers": recipe.mixed}
    for title, stage in stages.items():
        task = progress.add_task(title, total=stage.steps) if progress else None
        for _ in train(model, batches, stage, recipe):
            if progress and task is not None:
                progress.advance(task)
    return model, tokenizer


def fingerprint(recipe: Recipe) -> str:
    """Names the recipe and the code that draws, trains and builds: 16 hex digits."""
    here = Path(__file__).parent
    code = sorted([*(here / "tasks").glob("*.py"), *(here / f"{name}.py" for name in _CODE)])
    parts = [msgspec.json.encode(asdict(recipe), order="deterministic"), torch.__version__.encode()]
    return hashlib.blake2b(b"\0".join([*parts, *(path.read_bytes() for path in code)]), digest_size=8).hexdigest()


def train(model: Any, batches: Batches, stage: Stage, recipe: Recipe) -> Iterator[float]:
    """The steps of `stage`, one loss each."""
    rng = Random(f"{recipe.seed}/{stage}")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=stage.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, stage))
    model.train()
    for _ in range(stage.steps):
        loss = answer_loss(model, batches.draw(rng, recipe.batch, stage.wrong_share), batches.grid)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield loss.item()


def _rate(step: int, stage: Stage) -> float:
    """Factor of the learning rate: linear warm-up to 1, then linear decay to 0 at the last step."""
    rising = (step + 1) / max(stage.warmup_steps, 1)
    return min(rising, 1 - step / stage.steps)


def _texts(recipe: Recipe) -> Iterator[str]:
    """What the tokenizer is trained on: turn names, questions, traces and words of answers; not the texts to read."""
    rng = Random(recipe.seed)
    for _ in range(recipe.tokenizer_samples):
        drawn = TASKS[rng.choice(list(TASKS))](rng)
        yield from ("user", "assistant", drawn.question, drawn.think, *re.findall("[a-z]+", drawn.answer))
