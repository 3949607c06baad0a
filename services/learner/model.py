"""A Hugging Face vision-language model as the learner sees it: components, image features, log-probs of responses.

Letters: N tokens of a packed row, M response tokens of a micro-batch, K image tokens, V logits.
Tested with Qwen2.5-VL on the CPU; CUDA has never run.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from services.learner.attention import packed as attention
from services.learner.attention.batch import Packed
from services.learner.head import LogProbHead
from shared.errors import BadJob
from shared.models import common as vlm

Component = Literal["vit", "connector", "llm"]
COMPONENTS: tuple[Component, ...] = ("vit", "connector", "llm")

BANNED_LOGIT = -1e9
"""Added to the logits of banned tokens: their probability is exactly 0 in float32, and 0·log 0 stays finite."""


def component_of(name: str) -> Component:
    """The component of a parameter: the vision tower, its merger (the connector), or the language model.

    By module name, with or without the `model.` that transformers 4.52 put before `visual` (which made V-Triune's
    rule take the tower for a part of the language model).
    """
    parts = name.split(".")
    if "visual" not in parts:
        return "llm"
    inner = parts[parts.index("visual") + 1 :]
    return "connector" if inner and "merger" in inner[0] else "vit"


def layer_of(name: str) -> str:
    """The layer a parameter is counted under, in the names of transformers 4.51 as V-Triune logs them.

    `model.visual.blocks.0.mlp.down_proj.weight` → `visual.blocks.0`, `model.visual.merger.ln_q.weight` →
    `visual.merger`, `model.language_model.layers.5.…` → `model.layers.5`, `lm_head.weight` → `lm_head.weight`.
    """
    name = name.replace("model.visual.", "visual.", 1).replace("model.language_model.", "model.", 1)
    parts = name.split(".")
    return ".".join(parts[: 3 if len(parts) > 2 and parts[2].isdigit() else 2])


class FlatConv3d(nn.Conv3d):
    """A convolution whose kernel is as large as its input, as one matrix product; same weights, same names.

    oneDNN's backward pass of such a convolution takes about a tenth of a small model's step on a CPU.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T, H, W), where (T, H, W) is the kernel's size, to (B, C', 1, 1, 1)."""
        output = F.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return output[:, :, None, None, None]


@dataclass(frozen=True)
class TokenValues:
    """Values of the M response tokens: `log_probs` and `entropy`, both float32 (M,), both with gradient."""

    log_probs: Tensor
    entropy: Tensor


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a micro-batch: those whose `features` are known by digest, and the others' digests and pixels."""

    features: Mapping[str, Tensor]
    missing: Sequence[str] = ()
    pixels: Sequence[Tensor] = ()
    grids: Sequence[tuple[int, int, int]] = field(default=())


class VisionLanguageModel:
    """Weights, tokenizer and image processor of one model folder or hub id, on one device, all in one `dtype`.

    Raises BadJob when `source` cannot be loaded or is no vision-language model of the kind that is known here.
    """

    def __init__(
        self, source: str | Path, *, dtype: torch.dtype, device: torch.device, freeze: Sequence[Component]
    ) -> None:
        self.device, self.dtype = device, dtype
        self.frozen = frozenset(freeze)
        with loading(source):
            self.hf: Any = _complete_model(source, dtype)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
            self.image_processor: Any = AutoImageProcessor.from_pretrained(source)
        self._check(source)
        self.attention = attention.install(self.hf)
        self.banned = vlm.banned_for_model(self.hf.config, self.hf.generation_config, self.tokenizer)
        self._prepare()

    def _check(self, source: str | Path) -> None:
        base = getattr(self.hf, "model", None)
        missing = [name for name in ("visual", "language_model", "get_rope_index") if not hasattr(base, name)]
        if missing:
            kind = type(self.hf).__name__
            raise BadJob([f"model {str(source)!r} is a {kind} without {missing[0]!r}; expected one like Qwen2.5-VL"])
        if "sliding_attention" in (getattr(self.hf.config.get_text_config(), "layer_types", None) or ()):
            raise BadJob([f"model {str(source)!r} has sliding-window layers; expected full attention only"])

    def _prepare(self) -> None:
        self.hf.to(self.device).eval()
        flatten_convolutions(self.hf)
        self.hf.lm_head = LogProbHead.over(self.hf.lm_head)
        for name, parameter in self.hf.named_parameters():
            parameter.requires_grad_(component_of(name) not in self.frozen)
        self._bias = torch.zeros(self.hf.config.get_text_config().vocab_size, device=self.device)
        self._bias[self.banned] = BANNED_LOGIT

    def checkpoint_activations(self) -> None:
        """Keep one activation a layer and compute the others again in the backward pass.

        transformers does so only in training mode, which differs from evaluation mode by dropout alone; V-Triune's
        models have none, and a policy's ratio must not be drawn at random.
        """
        if any(getattr(module, "p", 0.0) for module in self.hf.modules() if isinstance(module, nn.Dropout)):
            return
        self.hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.hf.train()

    @property
    def vision_frozen(self) -> bool:
        """True when image features cannot change: neither tower nor connector is trained."""
        return {"vit", "connector"} <= self.frozen

    @property
    def image_token_id(self) -> int:
        return int(self.hf.config.image_token_id)

    @property
    def vocab_size(self) -> int:
        """Number of logits, padded rows included."""
        return len(self._bias)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that are trained, by name; a tied one once."""
        return {name: parameter for name, parameter in self.hf.named_parameters() if parameter.requires_grad}

    def features_of(self, images: Images) -> dict[str, Tensor]:
        """Every image's features by digest: those that are known, and those made from pixels."""
        made = self.image_features(images.pixels, images.grids) if images.missing else []
        return {**images.features, **dict(zip(images.missing, made, strict=True))}

    def with_dummy(self, images: Images) -> Images:
        """`images` and a black one that no placeholder names: with it the tower runs, and has a gradient of zeros."""
        vision = self.hf.config.vision_config
        side = int(vision.spatial_merge_size)
        values = int(vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
        return replace(
            images, missing=[*images.missing, ""], pixels=[torch.zeros(side * side, values)], grids=[(1, side, side)]
        )

    def image_features(self, pixels: Sequence[Tensor], grids: Sequence[tuple[int, int, int]]) -> list[Tensor]:
        """One (k, hidden) tensor an image, from its pixels (patches, values a patch); gradient unless all is frozen."""
        values = torch.cat(list(pixels)).to(self.device, non_blocking=True)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.vision_frozen):
            output = self.hf.model.get_image_features(values, torch.tensor(grids, device=self.device))
        features = getattr(output, "pooler_output", output)
        return list(features)

    def token_values(self, packed: Packed, images: Images, temperature: float) -> TokenValues:
        """Log-prob and entropy of every response token of a micro-batch, under the sampler's distribution.

        The distribution is softmax(logits / temperature) without the banned tokens; the entropy, in nats, is of the
        same distribution.
        """
        features = self.features_of(images)
        output = self.hf.model.language_model(
            inputs_embeds=self._embed(packed, features),
            position_ids=torch.from_numpy(packed.positions)[:, None].to(self.device),
            use_cache=False,
            packed_layout=attention.Layout.of(packed, self.device),
        )
        source, targets = (torch.from_numpy(part).to(self.device) for part in (packed.source, packed.targets))
        hidden = output.last_hidden_state[0].index_select(0, source)
        values = TokenValues(*self.hf.lm_head(hidden, targets, self._bias, temperature))
        if "" in features:  # a dummy takes part in the gradient, with nothing
            values = replace(values, log_probs=values.log_probs + 0.0 * features[""].sum())
        return values

    def _embed(self, packed: Packed, features: Mapping[str, Tensor]) -> Tensor:
        embeddings = self.hf.get_input_embeddings()(torch.from_numpy(packed.token_ids).to(self.device))
        if packed.image_order:
            values = torch.cat([features[digest] for digest in packed.image_order]).to(embeddings.dtype)
            places = torch.from_numpy(packed.image_places).to(self.device)
            embeddings = embeddings.index_copy(0, places, values)
        return embeddings[None]

    def tensors(self, *, trainable_only: bool) -> dict[str, Tensor]:
        """State-dict name → tensor on its device; a tied tensor once, under the first of its names."""
        trained = set(self.trainable())
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, tensor in self.hf.state_dict().items():
            if tensor.data_ptr() in seen or (trainable_only and name not in trained):
                continue
            seen.add(tensor.data_ptr())
            found[name] = tensor
        return found

    def save(self, folder: Path) -> None:
        """Write a folder that any Hugging Face loader reads: weights, configurations, tokenizer, image processor."""
        self.hf.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


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


def _complete_model(source: str | Path, dtype: torch.dtype) -> Any:
    """The model in `dtype`; raises ValueError when a weight is missing, which transformers would draw at random."""
    model, found = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"it has no weights for {missing[0]!r} and {len(missing) - 1} others")
    return model


@contextmanager
def loading(source: str | Path) -> Iterator[None]:
    """What transformers raises for a folder or hub id that it cannot load, as BadJob."""
    disable_progress_bar()  # stderr is a log
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise BadJob([f"model {str(source)!r} cannot be loaded: {str(error).strip().splitlines()[0]}"]) from error
