"""The last layer for the tokens that predict one: of all others it computes keys and values, and nothing else.

In a packed row these others are a prompt's tokens but its last: nobody reads what the last layer makes of them. What
works token by token (projections of query and output, the feed-forward network) sees the tokens that predict, and
leaves 0 in place of the others.
"""

from typing import Any

from torch import Tensor, nn

from services.learner.attention.layout import Layout

TOKEN_WISE = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""Of transformers' layers; one that carries a state has no `self_attn`."""


def predict_only(layer: nn.Module) -> None:
    """Make the last `layer` of a language model do so; parameters stay what and where they are."""
    _Last(layer)


class _Last:
    def __init__(self, layer: nn.Module) -> None:
        self._layout: Layout
        modules = dict(layer.named_modules())
        for name in TOKEN_WISE:
            if name in modules:
                self._narrow(modules[name])
        forward = layer.forward

        def run(*arguments: Any, packed_layout: Layout, **named: Any) -> Any:
            self._layout = packed_layout  # again at each recomputation in a backward pass
            return forward(*arguments, packed_layout=packed_layout, **named)

        layer.forward = run

    def _narrow(self, module: nn.Module) -> None:
        forward = module.forward

        def run(states: Tensor) -> Tensor:
            places = self._layout.predicting
            made: Tensor = forward(states.index_select(1, places))
            return made.new_zeros(1, states.shape[1], made.shape[-1]).index_copy(1, places, made)

        module.forward = run
