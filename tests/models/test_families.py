"""Every family against its model's own plain forward: sampler, learner, checkpoints, at a tiny size in float32."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from services.learner.attention import flex
from services.learner.attention.batch import Ready, micro_batches, pack, parts_of
from services.learner.attention.kernels import FlashAttn
from services.learner.attention.packed import Gpu, choose
from services.learner.engine import StepWork
from services.learner.engines.torch import TorchEngine
from services.learner.intake.ingest import GroupIngest
from services.learner.policy.model import Images
from services.rollout.engine import PromptLimits
from services.rollout.engines.hf import HfEngine
from shared.jobs.document import parse_job
from shared.messages import (
    BlobRef,
    ChatTurn,
    Completed,
    ImageRef,
    Prompt,
    Reward,
    RewardSpec,
    Sampling,
    Scored,
    pack_ints,
    unpack_floats,
    unpack_ints,
)
from shared.models.hf.forward import plain_arguments
from shared.models.hf.loading import open_inputs
from shared.models.inputs import Inputs
from shared.models.roles import ROLES, role_of
from tests.gpu_twins import FlashAttnTwin, dense_attend
from tests.models.page import Figures
from tests.models.tiny import FAMILIES, make

SIZES = [[(84, 112)], [(56, 56), (140, 84)], []]
"""Width and height of each prompt's images: one, two, none."""
TEXTS = ["<image>How many?", "<image><image>Which one is larger?", "How much is 3 + 4?"]
LIMIT = 1e-4
GPU = Gpu(FlashAttn(FlashAttnTwin(), "2.8.3"))


@dataclass(frozen=True)
class Learner:
    """An open engine and the ingest beside it."""

    ingest: GroupIngest
    engine: TorchEngine


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def rollout(folder: Path) -> HfEngine:
    limits = PromptLimits(min_image_pixels=0, max_image_pixels=2048 * 2048, max_prompt_tokens=2048)
    return HfEngine.open(str(folder), dtype="float32", limits=limits, feature_gib=1.0)


@pytest.fixture(scope="module")
def learner(folder: Path) -> Learner:
    document = {"model": str(folder), "total_steps": 2, "data": {"train": ["x"]}, "optimizer": {"freeze": []}}
    spec = parse_job(document)
    ingest = GroupIngest(spec)
    engine = TorchEngine(ingest.pixels)
    engine.open(spec, None)
    return Learner(ingest, engine)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    """The model as transformers loads it, with its plain attention."""
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def scored(rollout: HfEngine) -> list[tuple[Scored, list[bytes]]]:
    """Groups that the rollout engine has sampled, three completions each."""
    wanted = [prompt(ordinal) for ordinal in range(len(SIZES))]
    prepared = [rollout.prepare(one, images) for one, images in wanted]
    groups: dict[int, tuple[Scored, list[bytes]]] = {}
    for index, completions in rollout.generate(prepared):
        one, images = wanted[index]
        group = Completed(
            prompt=one,
            completions=completions,
            prompt_ids=pack_ints(prepared[index].ids),
            image_grid_thw=prepared[index].image_grid_thw,
            patch_size=rollout.patch_size,
            replica="r",
            started_at=0.0,
            finished_at=0.0,
        )
        rewards = [Reward(status="ok", final=float(row % 2)) for row in range(len(completions))]
        groups[index] = (
            Scored(group=group, rewards=rewards, replica="w", started_at=0.0, finished_at=0.0),
            images,
        )
    return [groups[index] for index in sorted(groups)]


@pytest.fixture(scope="module")
def ready(learner: Learner, scored: list[tuple[Scored, list[bytes]]]) -> list[Ready]:
    return [learner.ingest.ready(*group) for group in scored]


def test_an_image_that_was_seen_before_is_not_computed_again(
    rollout: HfEngine, scored: list[tuple[Scored, list[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise AssertionError("the vision tower sees an image twice")

    monkeypatch.setattr(rollout.model.model, "get_image_features", refuse)
    again = dict(rollout.generate([rollout.prepare(one.prompt, images) for one, images in scored]))
    for index, (one, _) in enumerate(scored):
        assert [c.token_ids for c in again[index]] == [c.token_ids for c in one.group.completions]


def test_features_are_right_whichever_of_them_were_kept(
    rollout: HfEngine, scored: list[tuple[Scored, list[bytes]]]
) -> None:
    prompts = [rollout.prepare(one.prompt, images) for one, images in scored]
    for name, image in list(rollout._features._kept.items()):
        rollout._features.clear()
        rollout._features._keep(name, image)
        again = dict(rollout.generate(prompts))
        for index, (one, _) in enumerate(scored):
            for completion, first in zip(again[index], one.group.completions, strict=True):
                assert completion.token_ids == first.token_ids
                np.testing.assert_allclose(
                    unpack_floats(completion.log_probs), unpack_floats(first.log_probs), atol=1e-4
                )


def test_a_prompt_is_counted_without_a_pixel(rollout: HfEngine) -> None:
    for one, images in map(prompt, range(len(SIZES))):
        sizes = [(image.width, image.height) for image in one.images]
        assert rollout.inputs.count(one.turns, sizes) == len(rollout.prepare(one, images).ids)


def prompt(ordinal: int) -> tuple[Prompt, list[bytes]]:
    random = np.random.default_rng(ordinal)
    images = [_png(random, *size) for size in SIZES[ordinal]]
    blobs = [BlobRef(digest=blake3.blake3(data).hexdigest(), size=len(data)) for data in images]
    one = Prompt(
        job="job-1",
        kind="train",
        ordinal=ordinal,
        source="drawn",
        task="counting",
        sample_id=str(ordinal),
        turns=[ChatTurn(role="system", content="Be brief."), ChatTurn(role="user", content=TEXTS[ordinal])],
        images=[
            ImageRef(blob=blob, width=width, height=height)
            for blob, (width, height) in zip(blobs, SIZES[ordinal], strict=True)
        ],
        reward=RewardSpec(verifier="mathverify", answer="1", ground_truth="1"),
        sampling=Sampling(n=3, temperature=1.0, max_new_tokens=[9, 14, 5][ordinal], seed=ordinal),
    )
    return one, images


def _png(random: np.random.Generator, width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def plain(model: Any, inputs: Inputs, group: Ready, tokens: np.ndarray, blank: bool = False) -> torch.Tensor:
    """Log-probs (T,) of a response by one forward pass of the model itself; `blank`: its images are all grey."""
    images = [inputs.image(image.data, alone=image.alone) for image in group.images]
    arguments = plain_arguments(inputs, np.concatenate([group.prompt_ids, tokens]), images, model.device)
    if blank and images:
        arguments["pixel_values"] = torch.full_like(arguments["pixel_values"], 0.1)
    logits = model(**arguments, use_cache=False).logits[0, len(group.prompt_ids) - 1 : -1].clone()
    logits[:, inputs.banned] = -torch.inf
    return logits.log_softmax(-1).gather(-1, torch.from_numpy(tokens)[:, None])[:, 0]


def shared_prefix(learner: Learner, groups: Sequence[Ready], budget: int) -> dict[tuple[int, int], torch.Tensor]:
    """Log-probs by (ordinal, completion) as the learner computes them, micro-batches of at most `budget` tokens."""
    found = {}
    for parts in micro_batches(parts_of(groups, budget), budget):
        packed = pack(parts, image_token_id=learner.ingest.inputs.image_token_id)
        images = {image.name: learner.ingest.pixels.get(image) for part in parts for image in part.group.images}
        values = learner.engine.model.token_values(packed, Images({}, images), 1.0)
        rows = [(part.group.ordinal, row) for part in parts for row in part.responses]
        pieces = values.log_probs.split([len(row.token_ids) for _, row in rows])
        found |= {(ordinal, row.index): piece for (ordinal, row), piece in zip(rows, pieces, strict=True)}
    return found


def test_an_image_matters(reference: Any, learner: Learner, ready: list[Ready]) -> None:
    """The other tests would prove little if it did not."""
    tokens = ready[0].responses[0].token_ids
    inputs = learner.ingest.inputs
    with torch.no_grad():
        moved = plain(reference, inputs, ready[0], tokens) - plain(reference, inputs, ready[0], tokens, blank=True)
    assert moved.abs().max() > 0.05


def test_the_sampler_records_the_log_probs_of_the_plain_forward(
    reference: Any, rollout: HfEngine, folder: Path, ready: list[Ready], figures: Figures
) -> None:
    worst = 0.0
    for group in ready:
        for row in group.responses:
            with torch.no_grad():
                expected = plain(reference, rollout.inputs, group, row.token_ids)
            worst = max(worst, float((torch.from_numpy(row.log_probs.copy()) - expected).abs().max()))
    figures[kind(folder)]["sampler"] = worst
    assert worst < LIMIT


@pytest.mark.parametrize(("budget", "on"), [(10_000, "cpu"), (150, "gpu")])
def test_the_learner_computes_log_probs_and_gradients_of_the_plain_forward(
    reference: Any,
    learner: Learner,
    folder: Path,
    ready: list[Ready],
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
    budget: int,
    on: str,
) -> None:
    """`gpu`: attention in the way that the family has on one, its kernels by their twins on the CPU, groups cut."""
    if on == "gpu":
        config, family = learner.engine.model.hf.config, learner.ingest.inputs.family
        monkeypatch.setattr(learner.engine.model, "attention", choose(config, family, torch.bfloat16, GPU))
        monkeypatch.setattr(flex, "attend", dense_attend)
    weigh = torch.Generator().manual_seed(1)
    inputs = learner.ingest.inputs
    ours = shared_prefix(learner, ready, budget)
    totals = [torch.zeros(()), torch.zeros(())]
    worst = 0.0
    for group in ready:
        for row in group.responses:
            log_probs = ours[group.ordinal, row.index]
            expected = plain(reference, inputs, group, row.token_ids)
            worst = max(worst, float((log_probs - expected).detach().abs().max()))
            weights = torch.randn(len(expected), generator=weigh)
            totals = [totals[0] + (weights * log_probs).sum(), totals[1] + (weights * expected).sum()]
    figures[kind(folder)]["learner"] = max(worst, figures[kind(folder)].get("learner", 0.0))
    assert worst < LIMIT
    for total, model in zip(totals, (learner.engine.model.hf, reference), strict=True):
        model.zero_grad()
        total.backward()
    expected_gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    norm = torch.sqrt(sum((grad**2).sum() for grad in expected_gradients.values() if grad is not None))
    largest = 0.0
    for name, parameter in learner.engine.model.hf.named_parameters():
        expected = expected_gradients[name]
        assert (parameter.grad is None) == (expected is None), name
        if expected is not None:
            largest = max(largest, float((parameter.grad - expected).norm() / norm))
    figures[kind(folder)]["gradient"] = max(largest, figures[kind(folder)].get("gradient", 0.0))
    assert largest < LIMIT


def test_what_a_frozen_tower_hands_on_is_all_that_a_trained_connector_needs(folder: Path, ready: list[Ready]) -> None:
    document = {"model": str(folder), "total_steps": 2, "data": {"train": ["x"]}, "optimizer": {"freeze": ["vit"]}}
    spec = parse_job(document)
    ingest = GroupIngest(spec)
    engine = TorchEngine(ingest.pixels)
    engine.open(spec, None)
    model, tower = engine.model, engine.model.tower
    assert tower is not None
    images = Images({}, {image.name: ingest.pixels.get(image) for image in ready[1].images})
    tower.limit_bytes = 10**9
    model.features_of(images)
    kept = tower.kept_bytes
    with torch.no_grad():
        for name, parameter in model.hf.named_parameters():
            if role_of(name) == "connector":
                parameter.mul_(1.25)
    replayed = model.features_of(images)
    tower.forget()
    full = model.features_of(images)
    assert 0 < kept == tower.kept_bytes
    assert all(torch.equal(replayed[name], full[name]) for name in full)


def test_the_model_sees_a_prompt_and_its_image_once_for_all_completions(
    learner: Learner, folder: Path, ready: list[Ready], figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf, group = learner.engine.model.hf, ready[0]
    calls, rows, whole = [], [], hf.model.get_image_features
    monkeypatch.setattr(hf.model, "get_image_features", lambda **arguments: calls.append(1) or whole(**arguments))

    def look(module: Any, arguments: Any, named: dict[str, Any]) -> None:
        rows.append(named["inputs_embeds"].shape[1])

    hook = hf.get_decoder().register_forward_pre_hook(look, with_kwargs=True)
    with torch.no_grad():
        shared_prefix(learner, [group], 10_000)
    hook.remove()
    prompt_tokens = len(group.prompt_ids)
    figures[kind(folder)] |= {"vision_calls": len(calls), "prompt_calls": rows[0] // prompt_tokens}
    assert len(calls) == 1 and len(group.responses) == 3
    assert rows == [prompt_tokens + sum(row.num_seen for row in group.responses)]
    assert group.num_response_tokens < prompt_tokens  # so that a second prompt could not hide among them


def test_a_checkpoint_opens_from_its_folder_alone(
    learner: Learner, folder: Path, ready: list[Ready], figures: Figures, tmp_path: Path
) -> None:
    learner.engine.save(tmp_path)
    saved = tmp_path / "model"
    opened = AutoModelForImageTextToText.from_pretrained(saved, dtype="auto").eval()
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.float32}
    inputs = open_inputs(saved)
    tokens = ready[0].responses[0].token_ids
    with torch.no_grad():
        again = plain(opened, inputs, ready[0], tokens)
        ours = shared_prefix(learner, ready, 10_000)[ready[0].ordinal, 0]
    torch.testing.assert_close(again, ours, atol=LIMIT, rtol=0)
    for file in folder.iterdir():
        if "processor" in file.name or "chat_template" in file.name:
            assert (saved / file.name).read_bytes() == file.read_bytes()
    figures[kind(folder)]["opens"] = 1.0


RATES = {"connector": 2e-3, "llm": 3e-3}


def test_a_step_freezes_rates_and_measures_by_role(folder: Path, learner: Learner, ready: list[Ready]) -> None:
    """The tower is frozen, connector and language model have rates of their own."""
    optimizer = {"freeze": ["vit"], "learning_rate": RATES["llm"], "learning_rate_connector": RATES["connector"]}
    document = {"model": str(folder), "total_steps": 1, "data": {"train": ["x"]}, "optimizer": optimizer}
    engine = TorchEngine(learner.ingest.pixels)
    engine.open(parse_job(document), None)
    parameters = dict(engine.model.hf.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    metrics = engine.step(StepWork(1, 1, False, [ready[0]])).metrics
    moved = {name for name, parameter in parameters.items() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in parameters if role_of(name) != "vit"}
    assert {role: metrics[f"lr/{role}"] for role in RATES} == RATES and "lr/vit" not in metrics
    norms = [metrics[f"grad_norm/{role}"] for role in RATES]
    assert min(norms) > 0 and "grad_norm/vit" not in metrics
    assert metrics["grad_norm"] == pytest.approx(float(np.hypot(*norms)))


def test_roles_are_the_parts_that_the_model_itself_names(reference: Any) -> None:
    tower, decoder = (set(part.parameters()) for part in (reference.get_encoder("image"), reference.get_decoder()))
    by_role: dict[str, set[Any]] = {role: set() for role in ROLES}
    for name, parameter in reference.named_parameters():
        by_role[role_of(name)].add(parameter)
    assert all(by_role.values())
    assert by_role["vit"] <= tower and decoder <= by_role["llm"]
    assert not by_role["connector"] & decoder


def kind(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["model_type"])


def test_completions_are_whole_and_hold_no_banned_token(
    rollout: HfEngine, scored: list[tuple[Scored, list[bytes]]]
) -> None:
    for group, _ in scored:
        for completion in group.group.completions:
            assert not set(unpack_ints(completion.token_ids).tolist()) & set(rollout.inputs.banned)
