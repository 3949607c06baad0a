"""The ways of computing attention over one packed row agree, in values and gradients, and each has its place."""

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch

from services.learner.attention import flex, kernels, packed
from services.learner.attention.batch import pack, parts_of
from services.learner.attention.joined import attention_within
from services.learner.attention.kernels import FlashAttn, open_kernel
from services.learner.attention.layout import Layout, Segments
from services.learner.attention.packed import Gpu, choose
from shared.models.catalog import family_of
from tests.gpu_twins import FlashAttnTwin, FlashTwin, dense_attend

SHAPES = [
    {"sizes": [(56, 84)], "text": 4, "lengths": [3, 9, 1, 5]},
    {"sizes": [(112, 56), (28, 28)], "text": 9, "lengths": [2, 14]},
    {"sizes": [], "text": 1, "lengths": [6]},
]
PACKAGE = FlashAttn(FlashAttnTwin(), "2.8.3")
WITH_FLASH, WITHOUT = Gpu(PACKAGE), Gpu(None)


@pytest.fixture(scope="module")
def row(make_engine, make_group):
    """Three prompts and their responses as one packed row; the second group is cut in two parts."""
    engine = make_engine()
    groups = [engine.ingest(*make_group(ordinal, **shape)) for ordinal, shape in enumerate(SHAPES)]
    return pack(parts_of(groups, 33), image_token_id=4)


def attention(row, way, window=None, two_way_images=False, kernel=None):
    """Output and gradients of queries, keys and values; four heads of queries share two of keys."""
    layout = Layout(row, torch.device("cpu"), way=way, kernel=kernel, two_way_images=two_way_images)
    random, length = torch.Generator().manual_seed(0), len(row.token_ids)
    states = [torch.randn(1, heads, length, 16, generator=random).requires_grad_() for heads in (4, 2, 2)]
    output, _ = packed.packed_attention(
        torch.nn.Module(), *states, None, packed_layout=layout, scaling=0.3, sliding_window=window
    )
    weights = torch.randn(output.shape, generator=random)
    return [output, *torch.autograd.grad((output * weights).sum(), states)]


@pytest.fixture(autouse=True)
def twins(monkeypatch):
    monkeypatch.setattr(flex, "attend", dense_attend)


def assert_near(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [FlashTwin(), PACKAGE], ids=["operators", "package"])
def test_flash_attention_joined_by_its_log_sum_exp_is_the_attention_over_blocks(row, kernel):
    assert_near(attention(row, "flash", kernel=kernel), attention(row, "sdpa"))


def test_a_join_by_autograd_would_lose_the_gradient_of_the_log_sum_exp(row):
    """Why the backward kernel is called by itself: the package's function has no gradient for what it is joined by."""

    class Dropping(FlashTwin):
        def backward(self, gradient, query, key, value, output, log_sums, segments, *, causal, scale):
            own, sums = self.forward(query, key, value, segments, causal=causal, scale=scale)
            share = (sums - log_sums).exp().T.unsqueeze(-1)  # of these keys in the whole
            return super().backward(
                gradient * share, query, key, value, own, sums, segments, causal=causal, scale=scale
            )

    lost, right = attention(row, "flash", kernel=Dropping()), attention(row, "sdpa")
    torch.testing.assert_close(lost[0], right[0], atol=1e-5, rtol=1e-5)
    assert (lost[1] - right[1]).abs().max() > 1e-2  # of queries
    torch.testing.assert_close(lost[3], right[3], atol=1e-5, rtol=1e-5)  # of values: it needs no log-sum-exp


def test_a_tower_sees_all_of_each_segment():
    random, segments = torch.Generator().manual_seed(0), Segments.at(torch.tensor([0, 5, 6, 14]))
    states = [torch.randn(14, 2, 8, generator=random).requires_grad_() for _ in range(3)]
    weights = torch.randn(14, 2, 8, generator=random)
    found = attention_within(*states, segments, None, PACKAGE)
    expected, _ = packed.segment_attention(
        torch.nn.Module(), *(each.transpose(0, 1)[None] for each in states), None, cu_seq_lens_q=segments.queries
    )
    gradients = [torch.autograd.grad((each * weights).sum(), states) for each in (found, expected[0])]
    assert_near([found, *gradients[0]], [expected[0], *gradients[1]])


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("two_way_images", [False, True])
def test_a_mask_of_tokens_is_the_attention_over_blocks(row, window, two_way_images):
    assert_near(attention(row, "flex", window, two_way_images), attention(row, "sdpa", window, two_way_images))


def test_flash_attention_reads_every_prompt_once_and_pads_nothing(row):
    layout = Layout(row, torch.device("cpu"), way="flash", kernel=PACKAGE)
    prompts = [len(part.group.prompt_ids) for part in row.parts]
    answers = [[response.num_seen for response in part.responses] for part in row.parts]
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
        ("qwen2_5_vl", torch.bfloat16, WITH_FLASH, ("flash", "flash")),
        ("qwen2_5_vl", torch.float32, WITH_FLASH, ("sdpa", "sdpa")),
        ("qwen2_5_vl", torch.bfloat16, WITHOUT, ("flex", "sdpa")),
        ("qwen2_5_vl", torch.bfloat16, None, ("sdpa", "sdpa")),
        ("internvl", torch.bfloat16, WITH_FLASH, ("flash", "sdpa")),  # its tower takes tiles as a batch
        ("gemma3", torch.bfloat16, WITH_FLASH, ("flex", "sdpa")),  # images both ways
    ],
)
def test_the_way_follows_from_device_type_and_family(model_type, dtype, gpu, expected):
    chosen = choose(config(), family_of(model_type, "m"), dtype, gpu)
    assert (chosen.text, chosen.vision) == expected


def test_windows_and_odd_heads_are_not_for_flash_attention():
    family = family_of("qwen2_5_vl", "m")
    windows = config(layer_types=["sliding_attention", "full_attention"])
    assert choose(windows, family, torch.bfloat16, WITH_FLASH).text == "flex"
    assert choose(config(head_dim=20), family, torch.bfloat16, WITH_FLASH).text == "flex"


def test_log_and_report_name_the_kernels():
    family = family_of("qwen2_5_vl", "m")
    assert str(choose(config(), family, torch.bfloat16, WITH_FLASH)) == (
        "flash (flash-attn 2.8.3), joined by log-sum-exp; vision flash (flash-attn 2.8.3)"
    )
    assert str(choose(config(), family, torch.bfloat16, WITHOUT)) == "flex; vision sdpa"
    assert str(choose(config(), family, torch.float32, WITH_FLASH)) == "sdpa; vision sdpa"


@pytest.fixture
def installed(monkeypatch):
    """Sets what is installed: `package` is what importing flash-attn gives, None where it is not there."""

    def install(package):
        def found(name):
            if package is None:
                raise PackageNotFoundError(name)
            return "2.8.3"

        def load(name):
            assert name == "flash_attn.flash_attn_interface"
            if isinstance(package, ImportError):
                raise package
            return package

        monkeypatch.setattr(kernels, "version", found)
        monkeypatch.setattr(kernels, "import_module", load)
        monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)

    return install


def test_the_package_flash_attn_is_used_where_it_is_installed(installed):
    installed(FlashAttnTwin())
    assert open_kernel((9, 0)).name == "flash-attn 2.8.3"
    assert open_kernel((7, 5)) is None  # older than Ampere


def test_where_the_package_is_missing_or_does_not_load_torch_has_kernels_of_its_own(installed, monkeypatch):
    for package in (None, ImportError("undefined symbol: _ZN3c10")):
        installed(package)
        assert open_kernel((8, 0)).name == "torch's FA2"
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert open_kernel((8, 0)) is None
