"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): the model's own weights stay, W + α/r · B·A is trained.

peft puts them in. The adapters alone are published (`shared.models.hf.adapters`); a checkpoint's folder holds merged
weights, under the names of the model without adapters.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from shared.errors import BadJob
from shared.jobs.spec import Learner
from shared.models.hf import adapters

ADAPTER = "default"
_ROLE_MARKS = {"attention": "attn", "mlp": "mlp"}


def add_adapters(model: nn.Module, settings: Learner, is_trained: Callable[[str], bool]) -> None:
    """Give every linear layer of the roles `lora_targets` whose name `is_trained` an adapter; freeze all the rest.

    Raises BadJob when peft is missing or no layer is left.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise BadJob([f"learner.lora_rank is {settings.lora_rank}, which needs peft: {error}"]) from error
    marks = [_ROLE_MARKS[role] for role in settings.lora_targets]
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and is_trained(name)
        and any(mark in part for part in name.split(".") for mark in marks)
    ]
    if not targets:
        raise BadJob([f"learner.lora_targets {settings.lora_targets} name no layer of the components that are trained"])
    config = LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=targets)
    inject_adapter_in_model(config, model, ADAPTER)


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """The model computes what it did before adapters were put in; they are read all the same, as ZeRO-3 expects."""
    layers = adapted(model).values()
    for layer in layers:
        layer.set_scale(ADAPTER, 0.0)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_scale(ADAPTER, 1.0)


def adapted(model: nn.Module) -> dict[str, Any]:
    """The layers that have an adapter, by the name that the layer without it has."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def published_name(name: str) -> str:
    """A parameter's name in what is published: that of the model without adapters, or of an adapter beside it."""
    return name.replace(".base_layer.", ".").replace(f".{ADAPTER}.weight", ".weight")


def published(name: str, layer: Any, tensor: Tensor) -> Tensor:
    """An adapter `tensor` of `layer` as it is published under `name`: float32, B scaled by α/r."""
    return tensor.detach().float() * (layer.scaling[ADAPTER] if name.endswith(adapters.UP) else 1.0)


def parts(layer: Any) -> list[Tensor]:
    """The three matrices that `merged` is made of."""
    return [layer.base_layer.weight, layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]


def merged(layer: Any) -> Tensor:
    """W + α/r · B·A, the bits that a sampler makes of the same three tensors."""
    weight, down, up = (part.detach() for part in parts(layer))
    return adapters.merged(weight, down, published(adapters.UP, layer, up))
