"""Layers that carry a state from token to token (Gated DeltaNet): a prompt's state is forked into its responses.

In one pass over the packed row a response would take over the state of the one before it, and no boundary that the
layer's kernels take forks a state. So every prompt runs once, and each of its responses starts from the prompt's final
state, with the prompt's last inputs of the convolution in front; exact in values and gradients.

Letters: N tokens of the row; a block has R rows of Q tokens (`batch.Block`); the convolution has C channels, width W.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5GatedDeltaNet,
    causal_conv1d_fn,
    torch_chunk_gated_delta_rule,
)

from services.learner.attention.layout import BlockTensors, Layout


class ForkedDeltaNet(Qwen3_5GatedDeltaNet):
    """The layer of transformers, over a packed row; the kernels it finds (fla, causal-conv1d) are used here, too."""

    def forward(self, hidden_states: Tensor, *_: Any, packed_layout: Layout, **__: Any) -> Tensor:
        """(1, N, hidden) to the same."""
        row = hidden_states[0]
        beta = self.in_proj_b(row).sigmoid()
        decay = -self.A_log.float().exp() * F.softplus(self.in_proj_a(row).float() + self.dt_bias)
        mixed = self.in_proj_qkv(row)
        prompts, responses = packed_layout.prompt_blocks, packed_layout.response_blocks
        made = [self._run(block, mixed, beta, decay, None) for block in prompts]
        order = torch.cat([block.prompt for block in prompts]).argsort()
        states = torch.cat([state for _, state in made])[order]
        made += [self._run(block, mixed, beta, decay, states[block.prompt]) for block in responses]
        attended = torch.cat([output.flatten(0, 1) for output, _ in made])[packed_layout.restore]  # (N, heads, D)
        gate = self.in_proj_z(row).view_as(attended)
        normed = self.norm(attended.flatten(0, 1), gate.flatten(0, 1))
        return self.out_proj(normed.view(1, len(row), -1))

    def _run(
        self, block: BlockTensors, mixed: Tensor, beta: Tensor, decay: Tensor, start: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Output (R, Q, heads, D) and final state (R, heads, D, D) of a block; `start` is the state before it (0).

        Behind the end of a shorter row nothing is written (beta 0) and nothing is lost (decay 1).
        """
        channels = self._convolved(block, mixed)
        query, key, value = channels.split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
        query, key = (part.unflatten(-1, (-1, self.head_k_dim)) for part in (query, key))
        times = self.num_v_heads // self.num_k_heads
        if times > 1:
            query, key = (part.repeat_interleave(times, dim=2) for part in (query, key))
        places, real = block.query.view(block.rows, -1), block.real[..., None]
        return torch_chunk_gated_delta_rule(
            query,
            key,
            value.unflatten(-1, (-1, self.head_v_dim)),
            g=decay[places] * real,
            beta=beta[places] * real,
            initial_state=start,
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )

    def _convolved(self, block: BlockTensors, mixed: Tensor) -> Tensor:
        """(R, Q, C): the causal convolution of width W, which sees the last W - 1 tokens before the row."""
        width = self.conv_kernel_size - 1
        before = block.before(width)
        context = mixed[before.clamp(min=0)] * (before >= 0)[..., None]
        inputs = torch.cat([context, mixed[block.query.view(block.rows, -1)]], dim=1)
        made = causal_conv1d_fn(
            inputs.transpose(1, 2), self.conv1d.weight.squeeze(1), self.conv1d.bias, activation=self.activation
        )
        return made.transpose(1, 2)[:, width:]


def fork_states(model: nn.Module) -> None:
    """Make the recurrent layers of `model` take a packed row; parameters stay what and where they are."""
    for module in model.modules():
        if type(module) is Qwen3_5GatedDeltaNet:
            module.__class__ = ForkedDeltaNet
