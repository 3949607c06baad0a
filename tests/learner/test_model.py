"""The shared-prefix computation against the plain one: every response with its own prompt and image, one at a time."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText

from services.learner.attention.batch import Ready, micro_batches, pack, parts_of
from services.learner.policy.model import BANNED_LOGIT, Images, VisionLanguageModel
from shared.models.family import PreparedImage
from shared.models.hf.forward import positions_of
from shared.models.memory import LOGITS_AT_ONCE
from shared.models.roles import layer_of, role_of

SHAPES = [
    {"sizes": [(56, 84)], "text": 4, "lengths": [3, 9, 1, 5]},
    {"sizes": [(112, 56), (28, 28)], "text": 9, "lengths": [2, 14]},
    {"sizes": [], "text": 5, "lengths": [6, 6, 4]},
]


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine()


@pytest.fixture(scope="module")
def groups(engine, make_group) -> list[Ready]:
    return [engine.ingest(*make_group(ordinal, **shape)) for ordinal, shape in enumerate(SHAPES)]


def shared_prefix(model: VisionLanguageModel, groups: Sequence[Ready], budget: int, temperature: float = 1.0):
    """Log-probs and entropies by (ordinal, completion)."""
    found = {}
    for parts in micro_batches(parts_of(groups, budget), budget):
        packed = pack(parts, image_token_id=model.inputs.image_token_id)
        values = model.token_values(packed, images_of(model, [part.group for part in parts]), temperature)
        rows = [(part.group.ordinal, row) for part in parts for row in part.responses]
        lengths = [len(row.token_ids) for _, row in rows]
        pairs = zip(values.log_probs.split(lengths), values.entropy.split(lengths), strict=True)
        found |= {(ordinal, row.index): pair for (ordinal, row), pair in zip(rows, pairs, strict=True)}
    return found


def images_of(model: VisionLanguageModel, groups: Sequence[Ready]) -> Images:
    images = {image.name: image for group in groups for image in group.images}
    return Images({}, {name: model.inputs.image(image.data, alone=image.alone) for name, image in images.items()})


def processed(model: VisionLanguageModel, group: Ready) -> dict[str, Tensor]:
    pictures = [Image.open(io.BytesIO(image.data)).convert("RGB") for image in group.images]
    return dict(model.inputs.parts.image_processor(images=pictures, return_tensors="pt"))


def plain(hf, model: VisionLanguageModel, groups: Sequence[Ready], temperature: float = 1.0):
    """The same by transformers' own forward on each whole sequence, positions and masks left to it."""
    found = {}
    for group in groups:
        for row in group.responses:
            ids = torch.from_numpy(np.concatenate([group.prompt_ids, row.token_ids]))[None]
            kinds = (ids == model.inputs.image_token_id).long()
            inputs = processed(model, group) if group.images else {}
            logits = hf(input_ids=ids, mm_token_type_ids=kinds, use_cache=False, **inputs).logits[0]
            logits = logits[len(group.prompt_ids) - 1 : -1] / temperature
            logits[:, model.inputs.banned] = -torch.inf
            log_probs = logits.log_softmax(-1)
            entropy = torch.distributions.Categorical(logits=logits.detach()).entropy()
            targets = torch.from_numpy(row.token_ids)[:, None]
            found[group.ordinal, row.index] = (log_probs.gather(-1, targets)[:, 0], entropy)
    return found


@pytest.fixture(scope="module")
def reference(model_folder):
    return AutoModelForImageTextToText.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="eager")


@pytest.mark.parametrize("budget", [10_000, 30, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_entropies_and_gradients_equal_the_plain_computation(engine, groups, reference, budget, temperature):
    model = engine.model
    weigh = torch.Generator().manual_seed(1)
    ours, theirs = shared_prefix(model, groups, budget, temperature), plain(reference, model, groups, temperature)
    assert ours.keys() == theirs.keys() and len(ours) == 9
    totals = [torch.zeros(()), torch.zeros(())]
    for key, (log_probs, entropy) in theirs.items():
        torch.testing.assert_close(ours[key][0], log_probs, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours[key][1], entropy, atol=1e-4, rtol=0)
        weights = torch.randn(len(log_probs), generator=weigh)
        totals[0] = totals[0] + (weights * ours[key][0]).sum()
        totals[1] = totals[1] + (weights * log_probs).sum()
    for total, hf in zip(totals, (model.hf, reference), strict=True):
        hf.zero_grad()
        total.backward()
    compared = 0
    for (name, parameter), (_, other) in zip(model.hf.named_parameters(), reference.named_parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, atol=1e-4, rtol=1e-4, msg=name)
            compared += 1
    assert compared == len(list(reference.parameters()))


def test_a_vocabulary_cut_into_chunks_gives_the_same_values_and_gradients(engine, groups, monkeypatch):
    model = engine.model
    gradients = []
    for limit in (10**9, 5 * 48):
        monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", limit)
        model.hf.zero_grad()
        sum(values[0].sum() for values in shared_prefix(model, groups, 10_000).values()).backward()
        gradients.append(model.hf.lm_head.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_copied_key_heads_as_on_a_gpu_give_the_same_values(engine, groups, monkeypatch):
    shared = shared_prefix(engine.model, groups, 10_000)
    monkeypatch.setattr("services.learner.attention.packed.repeats_heads", lambda device: True)
    copied = shared_prefix(engine.model, groups, 10_000)
    for key, (log_probs, _) in shared.items():
        torch.testing.assert_close(copied[key][0], log_probs)


def test_recomputed_activations_give_the_same_gradients(make_engine, groups):
    gradients = []
    for recompute in (False, True):
        model = make_engine().model
        if recompute:
            model.checkpoint_activations()
        sum(values[0].sum() for values in shared_prefix(model, groups, 10_000).values()).backward()
        gradients.append([parameter.grad for parameter in model.hf.parameters()])
    torch.testing.assert_close(*gradients)


def test_banned_tokens_are_special_ones_but_the_end_token_and_the_padded_rows(engine):
    assert engine.model.inputs.banned == [0, 2, 3, 4, 5, *range(36, 48)]
    assert torch.exp(torch.tensor(BANNED_LOGIT)) == 0.0


@pytest.mark.parametrize("width", [28, 140])
@pytest.mark.parametrize("loaded", [True, False], ids=["loaded model", "skeleton without weights"])
def test_positions_of_an_image_are_two_dimensional(engine, width, loaded):
    rule = positions_of(engine.inputs, engine.model.hf if loaded else None)
    image = PreparedImage({}, "", 2 * width // 28, (1, 2 * 2, 2 * width // 28))
    ids = np.array([2, *[4] * (2 * width // 28), 3, 7, 8])
    positions = rule(ids, [image])
    columns = width // 28
    assert positions[0].tolist() == [0, *[1] * (2 * columns), *(1 + max(2, columns) + np.arange(3))]
    assert positions[1, 1:-3].tolist() == [1] * columns + [2] * columns
    assert positions[2, 1:-3].tolist() == [1 + column for column in range(columns)] * 2


@pytest.mark.parametrize(
    ("name", "component", "layer"),
    [
        ("model.visual.blocks.0.mlp.down_proj.weight", "vit", "visual.blocks.0"),
        ("visual.patch_embed.proj.weight", "vit", "visual.patch_embed"),
        ("model.visual.merger.ln_q.weight", "connector", "visual.merger"),
        ("model.language_model.layers.5.self_attn.q_proj.bias", "llm", "model.layers.5"),
        ("model.language_model.embed_tokens.weight", "llm", "model.embed_tokens"),
        ("lm_head.weight", "llm", "lm_head.weight"),
    ],
)
def test_a_parameter_belongs_to_a_component_and_a_layer_whatever_the_release_calls_it(name, component, layer):
    assert (role_of(name), layer_of(name)) == (component, layer)


@pytest.mark.parametrize("frozen", ["vit", "connector", "llm"])
def test_a_frozen_component_gets_no_gradient_and_the_others_do(make_engine, groups, frozen):
    model = make_engine(optimizer={"freeze": [frozen]}).model
    sum(values[0].sum() for values in shared_prefix(model, groups, 10_000).values()).backward()
    for name, parameter in model.hf.named_parameters():
        assert (parameter.grad is None) == (role_of(name) == frozen), name
