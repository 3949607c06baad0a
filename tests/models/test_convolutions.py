"""The convolution over patches as a matrix product, against the library's."""

import torch
from torch import nn

from shared.models.hf.convolutions import FlatConv3d, flatten_convolutions


def test_a_convolution_over_whole_patches_is_a_product_of_the_same_parameters() -> None:
    convolution = nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4))
    model = nn.Sequential(nn.Sequential(convolution))
    patches = torch.randn(5, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = model(patches)
    flatten_convolutions(model)
    flat = model[0][0]
    assert isinstance(flat, FlatConv3d) and flat.weight is convolution.weight
    torch.testing.assert_close(model(patches), expected, atol=1e-5, rtol=1e-5)


def test_one_that_overlaps_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv3d(3, 8, (2, 4, 4), (1, 4, 4)), nn.Conv3d(3, 8, 2, 2, padding=1))
    flatten_convolutions(model)
    assert not any(isinstance(layer, FlatConv3d) for layer in model)
