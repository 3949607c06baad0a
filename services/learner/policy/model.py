"""A Hugging Face vision-language model as the learner sees it: roles, image features, log-probs of responses.

Letters: N tokens of a packed row, M response tokens of a micro-batch, K image tokens, V logits.
Tested on the CPU; CUDA has never run.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from services.learner.attention import packed as attention
from services.learner.attention.batch import Packed
from services.learner.attention.layout import Layout
from services.learner.engine import Scope
from services.learner.policy import lora
from services.learner.policy.head import LogProbHead
from services.learner.policy.selfcheck import Reference, check
from services.learner.policy.tower import KeptTower
from shared.jobs.spec import Learner
from shared.models.family import PreparedImage
from shared.models.hf import adapters, forward
from shared.models.hf.convolutions import flatten_convolutions
from shared.models.hf.loading import copy_processor_files, open_model
from shared.models.inputs import Inputs
from shared.models.roles import Role, role_of

BANNED_LOGIT = -1e9
"""Added to the logits of banned tokens: their probability is exactly 0 in float32, and 0·log 0 stays finite."""
DUMMY_SIDE = 64
"""Pixels of a side of the image that stands in where a rank has none."""


@dataclass(frozen=True)
class TokenValues:
    """Values of the M response tokens: `log_probs` and `entropy`, both float32 (M,), both with gradient."""

    log_probs: Tensor
    entropy: Tensor


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a micro-batch, by name: those whose `features` are known, the others as the tower takes them."""

    features: Mapping[str, Tensor]
    missing: Mapping[str, PreparedImage] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Exported:
    """A tensor on its way out: `value` computes it, on the device, from `parts`, which must be whole then.

    It has the type `dtype` and the shape of its first part.
    """

    name: str
    parts: Sequence[Tensor]
    value: Callable[[], Tensor]
    dtype: torch.dtype

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "Exported":
        """`tensor` as it is."""
        return cls(name, [tensor], tensor.detach, tensor.dtype)

    @property
    def layout(self) -> tuple[torch.dtype, tuple[int, ...]]:
        """Type and shape, also where ZeRO-3 has shared the first part out."""
        first = self.parts[0]
        return self.dtype, tuple(getattr(first, "ds_shape", first.shape))


class VisionLanguageModel:
    """The weights of one model folder or hub id, on one device, all in one `dtype`; raises BadJob."""

    def __init__(
        self, source: str | Path, *, inputs: Inputs, dtype: torch.dtype, device: torch.device, freeze: Sequence[Role]
    ) -> None:
        self._source, self.device, self.dtype, self.inputs = source, device, dtype, inputs
        self.frozen = frozenset(freeze)
        self.hf: Any = open_model(source, dtype=dtype)
        self.hf.to(device).eval()
        reference = Reference.of(self.hf, inputs)
        self.attention = attention.install(self.hf, inputs.family)
        self._prepare()
        self.tower = self._kept_tower()
        """What a frozen tower has made for a connector that is trained; None: there is no such pair."""
        self.self_check = check(self, reference)
        """Largest |difference| of a log-prob from the model's own forward pass, on a probe."""

    def _prepare(self) -> None:
        flatten_convolutions(self.hf)
        self.hf.lm_head = LogProbHead.over(self.hf.lm_head)
        for name, parameter in self.hf.named_parameters():
            parameter.requires_grad_(role_of(name) not in self.frozen)
        self._bias = torch.zeros(self.inputs.vocab_size, device=self.device)
        self._bias[self.inputs.banned] = BANNED_LOGIT

    def _kept_tower(self) -> KeptTower | None:
        if "vit" not in self.frozen or "connector" in self.frozen:
            return None
        black = self._black()
        return KeptTower.over(self.hf, lambda: forward.image_features(self.hf, self.inputs, [black], self.device))

    def add_adapters(self, settings: Learner) -> None:
        """Train adapters in place of the components that are not frozen; raises BadJob."""
        lora.add_adapters(self.hf, settings, lambda name: role_of(name) not in self.frozen)

    def checkpoint_activations(self) -> None:
        """Keep one activation a layer and compute the others again in the backward pass.

        transformers does so only in training mode, which differs from evaluation mode by dropout alone; V-Triune's
        models have none, and a policy's ratio must not be drawn at random.
        """
        if any(getattr(module, "p", 0.0) for module in self.hf.modules() if isinstance(module, nn.Dropout)):
            return
        self.hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.hf.train()

    def move(self, device: torch.device) -> None:
        """Bring all weights to `device`; parameters stay the same objects."""
        self.hf.to(device)
        self._bias = self._bias.to(device)
        self.device = device

    @property
    def vision_frozen(self) -> bool:
        """True when image features cannot change: neither tower nor connector is trained."""
        return {"vit", "connector"} <= self.frozen

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that are trained, by name; a tied one once."""
        return {name: parameter for name, parameter in self.hf.named_parameters() if parameter.requires_grad}

    def features_of(self, images: Images) -> dict[str, Tensor]:
        """Every image's features by name: those that are known, and those made from pixels."""
        if not images.missing:
            return dict(images.features)
        kept = self.tower.of(tuple(images.missing)) if self.tower else contextlib.nullcontext()
        with kept:
            made = self.image_features(list(images.missing.values()))
        return {**images.features, **dict(zip(images.missing, made, strict=True))}

    def with_dummy(self, images: Images) -> Images:
        """`images` and a black one that no placeholder names: with it the tower runs, and has a gradient of zeros."""
        return replace(images, missing={**images.missing, "": self._black()})

    def _black(self) -> PreparedImage:
        black = Image.new("RGB", (DUMMY_SIDE, DUMMY_SIDE))
        return self.inputs.family.prepare(black, self.inputs.parts, alone=True)

    def image_features(self, images: Sequence[PreparedImage]) -> list[Tensor]:
        """One (levels, k, hidden) tensor an image (`forward.image_features`); gradient unless all is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.vision_frozen):
            return forward.image_features(self.hf, self.inputs, images, self.device)

    def token_values(self, packed: Packed, images: Images, temperature: float) -> TokenValues:
        """Log-prob and entropy of every response token of a micro-batch, under the sampler's distribution.

        The distribution is softmax(logits / temperature) without the banned tokens; the entropy, in nats, is of the
        same distribution.
        """
        features = self.features_of(images)
        output = self.hf.get_decoder()(
            **self._embed(packed, features),
            position_ids=forward.position_ids(torch.from_numpy(packed.positions)[:, None].to(self.device)),
            use_cache=False,
            packed_layout=Layout(
                packed,
                self.device,
                way=self.attention.text,
                kernel=self.attention.kernel,
                two_way_images=self.inputs.family.two_way_images,
            ),
        )
        source, targets = (torch.from_numpy(part).to(self.device) for part in (packed.source, packed.targets))
        hidden = output.last_hidden_state[0].index_select(0, source)
        values = TokenValues(*self.hf.lm_head(hidden, targets, self._bias, temperature))
        if "" in features:  # a dummy takes part in the gradient, with nothing
            values = replace(values, log_probs=values.log_probs + 0.0 * features[""].sum())
        return values

    def _embed(self, packed: Packed, features: Mapping[str, Tensor]) -> dict[str, Any]:
        """The row (1, N, hidden) with image features at their placeholders, and DeepStack's levels beside it."""
        row = self.hf.get_input_embeddings()(torch.from_numpy(packed.token_ids).to(self.device))
        if not packed.image_order:
            return {"inputs_embeds": row[None]}
        values = torch.cat([features[name] for name in packed.image_order], dim=1).to(row.dtype)
        places = torch.from_numpy(packed.image_places).to(self.device)
        arguments: dict[str, Any] = {"inputs_embeds": row.index_copy(0, places, values[0])[None]}
        if len(values) > 1:
            is_image = torch.zeros(len(row), dtype=torch.bool, device=self.device).index_fill(0, places, True)
            arguments |= {"visual_pos_masks": is_image[None], "deepstack_visual_embeds": list(values[1:])}
        return arguments

    def exports(self, scope: Scope) -> list["Exported"]:
        """What is published, by state-dict name; a tied parameter once, and of adapters the two matrices alone."""
        buffers = dict(self.hf.named_buffers())
        kept = {name: buffers[name] for name in self.hf.state_dict() if name in buffers}
        layers = lora.adapted(self.hf)
        found = []
        for full_name, tensor in {**dict(self.hf.named_parameters()), **kept}.items():
            if tensor.requires_grad != (scope == "trained"):
                continue
            name, layer = lora.published_name(full_name), layers.get(full_name.partition(".lora_")[0])
            if layer is not None:
                value = functools.partial(lora.published, name, layer, tensor)
                found.append(Exported(name, [tensor], value, torch.float32))
            else:
                found.append(Exported.of(name, tensor))
        return found

    def whole(self) -> list["Exported"]:
        """All tensors of the plain model, adapters merged into theirs: what a checkpoint's folder holds."""
        layers = {name + adapters.WEIGHT: layer for name, layer in lora.adapted(self.hf).items()}
        beneath = self.exports("frozen")
        if not layers:
            return beneath + self.exports("trained")
        return [
            replace(each, parts=lora.parts(layer), value=functools.partial(lora.merged, layer))
            if (layer := layers.get(each.name)) is not None
            else each
            for each in beneath
        ]

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write a folder that any Hugging Face loader reads: `tensors`, configurations, tokenizer, image processor.

        Raises OSError or SafetensorError when the disk is full or not writable.
        """
        self.hf.save_pretrained(folder, state_dict=dict(tensors))
        try:
            self.inputs.tokenizer.save_pretrained(folder)
        except Exception as error:  # tokenizers has no class for what a disk can't do
            if type(error) is not Exception:
                raise
            raise OSError(f"{error}, at the tokenizer in {folder}") from error
        self.inputs.parts.image_processor.save_pretrained(folder)
        copy_processor_files(self._source, folder)
