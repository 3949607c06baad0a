"""The convolution over an image's patches as what it is: one matrix product."""

import torch.nn.functional as F
from torch import Tensor, nn


class FlatConv3d(nn.Conv3d):
    """A convolution whose kernel is as large as its input, as one matrix product; same weights, same names.

    oneDNN's backward pass of such a convolution takes about a tenth of a small model's step on a CPU, and in bfloat16
    more than all the rest of it; forward alone it is the larger part of a short prompt.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T, H, W), where (T, H, W) is the kernel's size, to (B, C', 1, 1, 1)."""
        output = F.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return output[:, :, None, None, None]


def flatten_convolutions(module: nn.Module) -> None:
    """Replace each 3-d convolution with kernel = stride and no padding by a `FlatConv3d` over the same parameters."""
    for name, child in module.named_children():
        if (
            type(child) is nn.Conv3d
            and child.kernel_size == child.stride
            and child.padding == (0, 0, 0)
            and child.groups == 1
        ):
            flat = FlatConv3d.__new__(FlatConv3d)
            flat.__dict__.update(child.__dict__)
            setattr(module, name, flat)
        else:
            flatten_convolutions(child)
