"""A random Qwen2.5-VL of some thousand weights, and scored groups made by hand for it."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import blake3
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
)

from services.learner.attention.batch import Ready
from services.learner.engine import Scope, StepResult, StepWork
from services.learner.engines.torch import TorchEngine
from services.learner.intake.ingest import GroupIngest
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
from tests.published import Tensors

SPECIAL = ["<pad>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
WORDS = [f"w{index}" for index in range(30)]
VOCABULARY = {word: index for index, word in enumerate(SPECIAL + WORDS)}
ROWS = 48  # of the embedding: 36 tokens and 12 rows of padding
IMAGE = VOCABULARY["<|image_pad|>"]

SHAPES: list[dict[str, Any]] = [
    {"lengths": [3, 9, 1, 5], "rewards": [1.0, 0.0, 0.5, 0.2]},
    {"sizes": [(112, 56)], "text": 9, "lengths": [2, 14], "rewards": [0.0, 1.0]},
    {"lengths": [4, 4], "rewards": [0.5, 0.5]},
    {"sizes": [], "lengths": [6, 3], "rewards": [1.0, None]},
    {"text": 1, "lengths": [2, 8, 3], "rewards": [1.0, 0.0, None]},
]
"""Groups of a step: of several images and none, uniform, with completions that have no verdict; 58 tokens together."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)

torch.set_num_threads(1)


def tiny_config() -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": ROWS,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
            "tie_word_embeddings": True,
            "initializer_range": 0.3,
            "bos_token_id": None,
            "eos_token_id": VOCABULARY["<|im_end|>"],
            "pad_token_id": VOCABULARY["<pad>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 24,
            "out_hidden_size": 24,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.3,
        },
        tie_word_embeddings=True,
        image_token_id=IMAGE,
        video_token_id=VOCABULARY["<|video_pad|>"],
        vision_start_token_id=VOCABULARY["<|vision_start|>"],
        vision_end_token_id=VOCABULARY["<|vision_end|>"],
        initializer_range=0.3,
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two text layers, a vision block with windows and one with full attention, tied embeddings."""
    return make_model(tmp_path_factory.mktemp("model"))


def make_model(folder: Path) -> Path:
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=CHAT_TEMPLATE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(tiny_config())
    model.generation_config = GenerationConfig(eos_token_id=VOCABULARY["<|im_end|>"])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=280 * 280).save_pretrained(folder)
    return folder


MakeSpec = Callable[..., JobSpec]
MakeEngine = Callable[..., "Learner"]
MakeGroup = Callable[..., tuple[Scored, list[bytes]]]


@pytest.fixture(scope="session")
def make_spec(model_folder: Path) -> MakeSpec:
    """A job for the tiny model; keyword arguments are tables of the job file, merged over the defaults."""

    def make(**tables: dict[str, object]) -> JobSpec:
        document: dict[str, object] = {
            "model": str(model_folder),
            "total_steps": 10,
            "data": {"train": ["unused"]},
            "optimizer": {"learning_rate": 1e-2, "freeze": []} | tables.pop("optimizer", {}),
        }
        return parse_job(document | tables)

    return make


class Learner:
    """An open engine and the ingest beside it, as one process has them."""

    def __init__(self, spec: JobSpec, checkpoint: Path | None = None) -> None:
        self._ingest = GroupIngest(spec)
        self.inputs, self.pixels = self._ingest.inputs, self._ingest.pixels
        self.engine = TorchEngine(self._ingest.pixels)
        self.facts = self.engine.open(spec, checkpoint)
        self.model, self.save = self.engine.model, self.engine.save

    def ingest(self, group: Scored, image_bytes: Sequence[bytes]) -> Ready:
        return self._ingest.ready(group, image_bytes)

    def step(
        self, groups: Sequence[Ready], number: int = 1, importance: bool = False, portions: Sequence[list[int]] = ()
    ) -> StepResult:
        return self.engine.step(StepWork(number, 10, importance, groups, portions))

    def weights(self, *scopes: Scope) -> dict[str, torch.Tensor]:
        """What is exported of these scopes; of none: of all."""
        found: dict[str, torch.Tensor] = {}
        for scope in scopes or get_args(Scope):
            tensors = Tensors()
            self.engine.export(tensors, scope=scope)
            found |= tensors
        return found


@pytest.fixture(scope="session")
def open_learner() -> type[Learner]:
    return Learner


@pytest.fixture(scope="session")
def make_engine(make_spec: MakeSpec) -> MakeEngine:
    """An open engine for `make_spec(**tables)`, from `checkpoint` if one is given."""

    def make(checkpoint: Path | None = None, **tables: dict[str, object]) -> Learner:
        return Learner(make_spec(**tables), checkpoint)

    return make


@pytest.fixture(scope="session")
def make_group() -> MakeGroup:
    """`scored_group`."""
    return scored_group


def scored_group(
    ordinal: int,
    *,
    sizes: Sequence[tuple[int, int]] = ((56, 56),),
    text: int = 4,
    lengths: Sequence[int] = (3, 5),
    rewards: Sequence[float | None] | None = None,
) -> tuple[Scored, list[bytes]]:
    """A scored group: images of the given sizes, text tokens around them, responses of the given lengths."""
    random = np.random.default_rng(ordinal)
    images = [_png(random, width, height) for width, height in sizes]
    prompt_ids: list[int] = []
    for width, height in sizes:
        pads = [IMAGE] * (width // 28 * (height // 28))
        prompt_ids += [VOCABULARY["<|vision_start|>"], *pads, VOCABULARY["<|vision_end|>"]]
    prompt_ids += random.integers(len(SPECIAL), len(VOCABULARY), text).tolist()
    completions = [_completion(random, length) for length in lengths]
    wanted = rewards if rewards is not None else random.uniform(0.0, 1.0, len(lengths)).tolist()
    group = Completed(
        prompt=_prompt(ordinal, images, sizes, len(lengths)),
        completions=completions,
        prompt_ids=pack_ints(prompt_ids),
        image_grid_thw=[(1, height // 14, width // 14) for width, height in sizes],
        patch_size=14,
        replica="r",
        started_at=0.0,
        finished_at=0.0,
    )
    verdicts = [_verdict(reward) for reward in wanted]
    return Scored(group=group, rewards=verdicts, replica="w", started_at=0.0, finished_at=0.0), images


def _completion(random: np.random.Generator, length: int) -> Completion:
    return Completion(
        token_ids=pack_ints(random.integers(len(SPECIAL), len(VOCABULARY), length)),
        log_probs=pack_floats(random.uniform(-4.0, -2.0, length)),
        text="",
        finish="stop",
        versions=[(0, length)],
    )


def _verdict(reward: float | None) -> Reward:
    return Reward(status="verifier-error", error="no") if reward is None else Reward(status="ok", final=reward)


def _prompt(ordinal: int, images: Sequence[bytes], sizes: Sequence[tuple[int, int]], n: int) -> Prompt:
    blobs = [BlobRef(digest=blake3.blake3(data).hexdigest(), size=len(data)) for data in images]
    return Prompt(
        job="job-1",
        kind="train",
        ordinal=ordinal,
        source="drawn",
        task="math",
        sample_id=str(ordinal),
        turns=[ChatTurn(role="user", content="<image>")],
        images=[
            ImageRef(blob=blob, width=width, height=height) for blob, (width, height) in zip(blobs, sizes, strict=True)
        ],
        reward=RewardSpec(verifier="mathverify", answer="1", ground_truth="1"),
        sampling=Sampling(n=n, temperature=1.0, max_new_tokens=16, seed=0),
    )


def _png(random: np.random.Generator, width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
