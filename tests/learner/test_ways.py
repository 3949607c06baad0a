"""The ways of computing attention over one packed row agree, in values and gradients, and each has its place."""

from types import SimpleNamespace

import pytest
import torch

from services.learner.attention import flex, packed
from services.learner.attention.batch import pack, parts_of
from services.learner.attention.layout import Layout
from services.learner.attention.packed import Gpu, choose
from shared.models.catalog import family_of
from tests.gpu_twins import FlashTwin, dense_attend

SHAPES = [
    {"sizes": [(56, 84)], "text": 4, "lengths": [3, 9, 1, 5]},
    {"sizes": [(112, 56), (28, 28)], "text": 9, "lengths": [2, 14]},
    {"sizes": [], "text": 1, "lengths": [6]},
]
H100, T4 = Gpu((9, 0), has_flash=True), Gpu((7, 5), has_flash=True)


@pytest.fixture(scope="module")
def row(make_engine, make_group):
    """Three prompts and their responses as one packed row; the second group is cut in two parts."""
    engine = make_engine()
    groups = [engine.ingest(*make_group(ordinal, **shape)) for ordinal, shape in enumerate(SHAPES)]
    return pack(parts_of(groups, 33), image_token_id=4)


def attention(row, way, window=None, two_way_images=False):
    """Output and gradients of queries, keys and values; four heads of queries share two of keys."""
    layout = Layout(row, torch.device("cpu"), way=way, two_way_images=two_way_images)
    random, length = torch.Generator().manual_seed(0), len(row.token_ids)
    states = [torch.randn(1, heads, length, 16, generator=random).requires_grad_() for heads in (4, 2, 2)]
    output, _ = packed.packed_attention(
        torch.nn.Module(), *states, None, packed_layout=layout, scaling=0.3, sliding_window=window
    )
    weights = torch.randn(output.shape, generator=random)
    return [output, *torch.autograd.grad((output * weights).sum(), states)]


@pytest.fixture(autouse=True)
def twins(monkeypatch):
    monkeypatch.setattr(packed, "FLASH", FlashTwin())
    monkeypatch.setattr(flex, "attend", dense_attend)


def assert_near(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_flash_attention_joined_by_its_log_sum_exp_is_the_attention_over_blocks(row):
    assert_near(attention(row, "flash"), attention(row, "sdpa"))


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("two_way_images", [False, True])
def test_a_mask_of_tokens_is_the_attention_over_blocks(row, window, two_way_images):
    assert_near(attention(row, "flex", window, two_way_images), attention(row, "sdpa", window, two_way_images))


def test_flash_attention_reads_every_prompt_once_and_pads_nothing(row):
    layout = Layout(row, torch.device("cpu"), way="flash")
    prompts = [len(part.group.prompt_ids) for part in row.parts]
    answers = [[len(response.token_ids) for response in part.responses] for part in row.parts]
    assert layout.cross.keys.diff().tolist() == prompts
    assert layout.cross.queries.diff().tolist() == [sum(lengths) for lengths in answers]
    assert layout.own.queries.diff().tolist() == prompts + [length for lengths in answers for length in lengths]
    assert int(layout.own.queries[-1]) == len(row.token_ids)


def config(**text):
    text = SimpleNamespace(hidden_size=4096, num_attention_heads=32, sliding_window=None, **text)
    vision = SimpleNamespace(hidden_size=1280, num_heads=16)
    return SimpleNamespace(get_text_config=lambda: text, vision_config=vision)


@pytest.mark.parametrize(
    ("model_type", "dtype", "gpu", "expected"),
    [
        ("qwen2_5_vl", torch.bfloat16, H100, ("flash", "flash")),
        ("qwen2_5_vl", torch.float32, H100, ("sdpa", "sdpa")),
        ("qwen2_5_vl", torch.bfloat16, T4, ("flex", "sdpa")),
        ("qwen2_5_vl", torch.bfloat16, Gpu((9, 0), has_flash=False), ("flex", "sdpa")),
        ("qwen2_5_vl", torch.bfloat16, None, ("sdpa", "sdpa")),
        ("internvl", torch.bfloat16, H100, ("flash", "sdpa")),  # its tower takes tiles as a batch
        ("gemma3", torch.bfloat16, H100, ("flex", "sdpa")),  # images both ways
    ],
)
def test_the_way_follows_from_device_type_and_family(model_type, dtype, gpu, expected):
    chosen = choose(config(), family_of(model_type, "m"), dtype, gpu)
    assert (chosen.text, chosen.vision) == expected


def test_windows_and_odd_heads_are_not_for_flash_attention():
    family = family_of("qwen2_5_vl", "m")
    windows = config(layer_types=["sliding_attention", "full_attention"])
    assert choose(windows, family, torch.bfloat16, H100).text == "flex"
    assert choose(config(head_dim=20), family, torch.bfloat16, H100).text == "flex"


def test_log_and_report_name_the_kernels():
    assert str(choose(config(), family_of("qwen2_5_vl", "m"), torch.bfloat16, H100)) == (
        "flash (FA2), joined by log-sum-exp; vision flash (FA2)"
    )
    assert str(choose(config(), family_of("qwen2_5_vl", "m"), torch.float32, H100)) == "sdpa; vision sdpa"
