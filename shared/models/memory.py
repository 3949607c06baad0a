"""How much memory a job's learner needs, by part, from config.json and the headers of safetensors files alone.

Letters: H channels, I channels of the MLP.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from shared.errors import BadJob
from shared.jobs.rules import learner_contradictions
from shared.jobs.spec import JobSpec
from shared.models.roles import ROLES, Role, role_of

GIB = 1024**3
LOGITS_AT_ONCE = {"cpu": 2**25, "cuda": 2**29}
"""Float32 logits (tokens times vocabulary) that the learner computes at a time, by device."""
SPARE = 0.9
"""Share of a device's memory that a job may plan with: the rest is the driver's and lost between tensors."""
_HEADER_LIMIT = 100 * 1024 * 1024

Device = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("cpu", "cuda")


@dataclass(frozen=True)
class Tower:
    """Layers of one transformer: channels, and those of its MLP and of its keys (all heads)."""

    layers: int
    hidden: int
    mlp: int
    keys: int


@dataclass(frozen=True)
class Architecture:
    """Sizes of a vision-language model: `weights` by role, `vocabulary` logits, `patch_values` numbers a patch.

    `linear`: (role, `attention` or `mlp`) → the sum of both sides of each matrix, which adapters are sized by.
    """

    text: Tower
    vision: Tower
    vocabulary: int
    weights: Mapping[Role, int]
    linear: Mapping[tuple[Role, str], int]
    patch_values: int
    patches_per_token: int


@dataclass(frozen=True)
class Shape:
    """A micro-batch: `tokens`, of them `responses`, `gathered` keys that attention copies, `patches` of its images."""

    tokens: int
    responses: int
    gathered: int
    patches: int


@dataclass(frozen=True)
class Memory:
    """Bytes by part: on the device of each rank, and in the host's memory."""

    device: Mapping[str, int]
    host: Mapping[str, int]

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())


def read_architecture(folder: Path) -> Architecture:
    """Of a Hugging Face folder; raises BadJob when its config.json or a safetensors header cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text())
        shapes = _shapes(folder)
        text, vision = config.get("text_config", config), config["vision_config"]
        return _architecture(text, vision, shapes)
    except (OSError, KeyError, TypeError, ValueError, StopIteration, struct.error) as error:
        raise BadJob([f"model {str(folder)!r}: its size cannot be read: {error!r}"]) from error


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Name → shape of every tensor of the folder."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _HEADER_LIMIT:
                raise ValueError(f"{path.name} has a header of {size} bytes")
            header = json.loads(file.read(size))
        found |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    if not found:
        raise ValueError("there is no safetensors file")
    return found


def _architecture(text: Mapping[str, Any], vision: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> Architecture:
    weights: dict[Role, int] = dict.fromkeys(ROLES, 0)
    linear: dict[tuple[Role, str], int] = {}
    for name, shape in shapes.items():
        role = role_of(name)
        weights[role] += math.prod(shape)
        kind = "attention" if "attn" in name else "mlp" if "mlp" in name else ""
        if kind and len(shape) == 2:
            linear[role, kind] = linear.get((role, kind), 0) + sum(shape)
    return Architecture(
        text=_text(text, shapes),
        vision=_vision(vision, shapes),
        vocabulary=_embedding(shapes)[0],
        weights=weights,
        linear=linear,
        patch_values=_patch_values(vision),
        patches_per_token=vision.get("spatial_merge_size", 2) ** 2,
    )


def _text(text: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> Tower:
    """From the tensors where config.json leaves a number to transformers' defaults, as many published ones do."""
    keys = [shape[0] for name, shape in shapes.items() if role_of(name) == "llm" and name.endswith("k_proj.weight")]
    return Tower(
        text.get("num_hidden_layers") or _layers(shapes, "llm"),
        text.get("hidden_size") or _embedding(shapes)[1],
        text.get("intermediate_size") or _widest_mlp(shapes, "llm"),
        max(keys, default=0),
    )


def _vision(vision: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> Tower:
    """As `_text`; Qwen2-VL calls a tower's channels `embed_dim`, and what leaves it `hidden_size`."""
    width = vision.get("embed_dim") or vision.get("hidden_size") or _tower_width(shapes)
    layers = vision.get("depth") or vision.get("num_hidden_layers") or _layers(shapes, "vit")
    return Tower(layers, width, vision.get("intermediate_size") or _widest_mlp(shapes, "vit") or 4 * width, width)


def _embedding(shapes: Mapping[str, list[int]]) -> list[int]:
    """Vocabulary and channels."""
    return next(shape for name, shape in shapes.items() if name.endswith("embed_tokens.weight"))


def _layers(shapes: Mapping[str, list[int]], role: Role) -> int:
    numbers = [int(part) for name in shapes if role_of(name) == role for part in name.split(".") if part.isdigit()]
    return max(numbers, default=-1) + 1


def _widest_mlp(shapes: Mapping[str, list[int]], role: Role) -> int:
    sides = [
        max(shape) for name, shape in shapes.items() if role_of(name) == role and "mlp" in name and len(shape) == 2
    ]
    return max(sides, default=0)


def _tower_width(shapes: Mapping[str, list[int]]) -> int:
    """Channels that leave the convolution over patches, the one tensor of a tower with pixels' sides."""
    return next(shape[0] for name, shape in shapes.items() if role_of(name) == "vit" and len(shape) >= 4)


def _patch_values(vision: Mapping[str, Any]) -> int:
    size = vision["patch_size"]
    side = size if isinstance(size, int) else size[0]
    frames = vision.get("temporal_patch_size", 2 if "depth" in vision else 1)  # towers of images alone name none
    return int(3 * frames * side**2)


def largest_shape(spec: JobSpec, architecture: Architecture) -> Shape:
    """The micro-batch that costs most within the job's bounds: a full budget, half of it a prompt of image tokens."""
    n = spec.algorithm.samples_per_prompt
    prompt = min(spec.data.max_prompt_tokens, spec.learner.tokens_per_batch // 2)
    response = min(spec.sampling.max_new_tokens, max(1, (spec.learner.tokens_per_batch - prompt) // n))
    group = prompt + n * response
    groups = max(1, spec.learner.tokens_per_batch // group)
    return Shape(
        tokens=groups * group,
        responses=groups * n * response,
        gathered=groups * (prompt + n * (prompt + response)),
        patches=groups * prompt * architecture.patches_per_token,
    )


def estimate(spec: JobSpec, architecture: Architecture, shape: Shape, *, device: Device, ranks: int = 1) -> Memory:
    """Memory of the learner at its peak: an update with several micro-batches, each of `shape`."""
    learner, zero = spec.learner, spec.learner.engine == "deepspeed"
    small = learner.dtype == "bfloat16" or (learner.dtype == "auto" and device == "cuda")
    size, trained = (2 if small else 4), _trained(spec, architecture)
    stage = learner.zero_stage if zero else 0
    parameters = sum(architecture.weights.values()) * size // (ranks if stage == 3 else 1)
    masters = trained * 4 if small or zero else 0
    moments = trained * (2 if learner.optimizer_state == "8bit" else 8)
    if stage >= 1:
        masters, moments = masters // ranks, moments // ranks
    gradients = trained * (4 if not zero else size) // (ranks if stage >= 2 else 1)
    held = {"masters": masters, "moments": moments}
    on_device = {"parameters": parameters, "gradients": gradients}
    if spec.algorithm.kl_coefficient and not learner.lora_rank:
        on_device["first weights"] = sum(architecture.weights.values()) * size  # whole on every rank
    if learner.optimizer_state == "cpu" and device == "cuda":
        host = held
    else:
        host = {}
        on_device |= held
    checkpointing = learner.gradient_checkpointing == "on" or (
        learner.gradient_checkpointing == "auto" and device == "cuda"
    )
    attended = size if device == "cuda" else 4  # a CPU attends in float32
    on_device["activations"] = _activations(architecture, shape, spec, size, attended, checkpointing)
    on_device["logits"] = 3 * 4 * min(shape.responses * architecture.vocabulary, LOGITS_AT_ONCE[device])
    if "llm" not in spec.optimizer.freeze and not learner.lora_rank:
        on_device["logits"] += (
            4 * architecture.vocabulary * architecture.text.hidden
        )  # one float32 gradient of the head
    algorithm = spec.algorithm
    is_seen_again = algorithm.updates_per_step > 1 and algorithm.old_policy == "recomputed"
    under_adapters = learner.lora_rank > 0 and algorithm.kl_coefficient > 0 and "connector" not in spec.optimizer.freeze
    if "vit" in spec.optimizer.freeze and (is_seen_again or under_adapters):
        on_device["image features"] = int(learner.feature_memory_gib * GIB)
    return Memory(on_device, host)


def _trained(spec: JobSpec, architecture: Architecture) -> int:
    """Weights that the optimizer updates."""
    roles = architecture.weights.keys() - set(spec.optimizer.freeze)
    if not spec.learner.lora_rank:
        return sum(architecture.weights[role] for role in roles)
    sides = sum(architecture.linear.get((role, kind), 0) for role in roles for kind in spec.learner.lora_targets)
    return spec.learner.lora_rank * sides


def _activations(
    architecture: Architecture, shape: Shape, spec: JobSpec, size: int, attended: int, checkpointing: bool
) -> int:
    """What the backward pass needs of the language model, and of the tower when it is trained."""
    text, vision = architecture.text, architecture.vision
    layer = _layer(text, shape.tokens, shape.gathered, size, attended)
    kept = text.layers * shape.tokens * text.hidden * size + layer if checkpointing else text.layers * layer
    tower = _layer(vision, shape.patches, shape.patches, size, attended) + 4 * shape.patches * architecture.patch_values
    if "vit" not in spec.optimizer.freeze:
        tower *= 1 if checkpointing else vision.layers
    return kept + tower


def _layer(tower: Tower, tokens: int, gathered: int, size: int, attended: int) -> int:
    """One layer without recomputing, of numbers of `size` bytes, in attention `attended`.

    Each of two norms keeps 3 H a token (one of them float32), attention 3 H and what it has gathered of keys and
    values, the gated MLP 4 I.
    """
    norms = tokens * 2 * (2 * tower.hidden * size + tower.hidden * 4)
    attention = attended * (tokens * 3 * tower.hidden + 2 * gathered * tower.keys)
    return norms + attention + size * tokens * 4 * tower.mlp


REMEDIES: tuple[dict[str, Any], ...] = (
    {"gradient_checkpointing": "on"},
    {"gradient_checkpointing": "on", "tokens_per_batch": 4096},
    {"gradient_checkpointing": "on", "optimizer_state": "8bit"},
    {"gradient_checkpointing": "on", "optimizer_state": "cpu"},
    {"gradient_checkpointing": "on", "lora_rank": 16},
    {"gradient_checkpointing": "on", "tokens_per_batch": 4096, "lora_rank": 16},
)
"""Keys of [learner] that make a job smaller, the mildest first."""


def misfit(
    spec: JobSpec, architecture: Architecture, device_bytes: int, *, device: Device, ranks: int = 1
) -> str | None:
    """One sentence when the job cannot fit into `device_bytes`, with the mildest keys that would make it; else None."""

    def needs(changed: JobSpec) -> int:
        shape = largest_shape(changed, architecture)
        return estimate(changed, architecture, shape, device=device, ranks=ranks).device_bytes

    room = int(device_bytes * SPARE)
    if needs(spec) <= room:
        return None
    sentence = (
        f"the learner of {spec.model} needs {needs(spec) / GIB:.1f} GiB on a device of {device_bytes / GIB:.1f} GiB "
        f"({SPARE:.0%} of it can be planned with)"
    )
    for remedy in REMEDIES:
        changed = msgspec.structs.replace(spec, learner=msgspec.structs.replace(spec.learner, **remedy))
        if not learner_contradictions(changed.learner) and needs(changed) <= room:
            keys = ", ".join(f"learner.{key} = {json.dumps(value)}" for key, value in remedy.items())
            return f"{sentence}; it fits with {keys}"
    return (
        f'{sentence}; no keys make it fit: expected a smaller model, or learner.engine = "deepspeed" over more devices'
    )
