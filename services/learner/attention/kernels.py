"""flash-attention within segments of a row: by the package flash-attn, by torch's own operators where it is missing.

Letters: Nq queries, Nk keys, H heads, Hkv heads of keys, D size of a head.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.attention import activate_flash_attention_impl, current_flash_attention_impl

from services.learner.attention.layout import Segments
from shared.runtime.logging import get_logger


class Kernel(Protocol):
    """Attention within segments: `query` (Nq, H, D), `key` and `value` (Nk, Hkv, D); float16 or bfloat16 on a GPU."""

    name: str
    """For log and report."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Output (Nq, H, D) and log-sum-exp of the scores float32 (H, Nq), without gradient."""
        ...

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, log_sums: Tensor,
        segments: Segments, *, causal: bool, scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Gradients of query, key and value, where `output` and `log_sums` may count more keys than these."""
        ...


class FlashAttn:
    """The varlen kernels of the package flash-attn (Dao 2023, arXiv:2307.08691), by the calls of its release 2.8.3.

    Its own autograd function drops the gradient of the log-sum-exp (`FlashAttnVarlenFunc.backward` takes `dout, *args`;
    Dao-AILab/flash-attention#1137), so that two of its calls cannot be joined by autograd. The backward kernel itself
    is called here, as ring-flash-attention does. On CUDA only, never run there yet.
    """

    def __init__(self, interface: Any, release: str) -> None:
        """`interface`: the module `flash_attn.flash_attn_interface`."""
        self._interface, self.name = interface, f"flash-attn {release}"

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `Kernel`."""
        output, log_sums, _ = self._interface.flash_attn_varlen_func(
            query, key, value, segments.queries, segments.keys, segments.longest_query, segments.longest_key,
            softmax_scale=scale, causal=causal, return_attn_probs=True,
        )  # fmt: skip
        return output, log_sums

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, log_sums: Tensor,
        segments: Segments, *, causal: bool, scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """See `Kernel`."""
        found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        self._interface._flash_attn_varlen_backward(
            gradient, query, key, value, output, log_sums, *found, segments.queries, segments.keys,
            segments.longest_query, segments.longest_key, dropout_p=0.0, softmax_scale=scale, causal=causal,
            window_size_left=-1, window_size_right=-1, softcap=0.0, alibi_slopes=None, deterministic=False,
        )  # fmt: skip
        return found


class TorchFlash:
    """torch's own flash-attention, the kernels under `torch.nn.attention.varlen`; on CUDA only, never run there yet."""

    def __init__(self) -> None:
        self.name = f"torch's {current_flash_attention_impl() or 'FA2'}"

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `Kernel`."""
        output, log_sums, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, segments.queries, segments.keys, segments.longest_query, segments.longest_key,
            0.0, causal, False, scale=scale,
        )  # fmt: skip
        return output, log_sums

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, log_sums: Tensor,
        segments: Segments, *, causal: bool, scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """See `Kernel`."""
        state = torch.zeros(2, dtype=torch.uint64, device=query.device)  # of a dropout that is 0
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
            gradient, query, key, value, output, log_sums, segments.queries, segments.keys,
            segments.longest_query, segments.longest_key, 0.0, causal, state, state.new_empty(0), scale=scale,
        )  # fmt: skip
        return found


def open_kernel(capability: tuple[int, int]) -> Kernel | None:
    """What a GPU of this compute capability runs: flash-attn where it is installed, else torch's; None: neither.

    A package that is installed and does not load (it is compiled against one torch) is said in the log.
    """
    if capability < (8, 0):
        return None
    try:
        release = version("flash-attn")
        return FlashAttn(import_module("flash_attn.flash_attn_interface"), release)
    except PackageNotFoundError:
        pass
    except ImportError as error:
        get_logger().warning("flash-attn is installed and does not load, torch's kernels are used", error=str(error))
    if not torch.backends.cuda.is_flash_attention_available():
        return None
    if capability[0] in (9, 10) and _has_flash_attn_4():
        activate_flash_attention_impl("FA4")
    return TorchFlash()


def _has_flash_attn_4() -> bool:
    """Whether the package flash-attn-4 is there, whose kernels stand behind torch's operators once activated."""
    return bool(find_spec("flash_attn") and find_spec("flash_attn.cute"))
