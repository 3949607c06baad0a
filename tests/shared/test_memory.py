"""The estimate of a learner's memory: sizes worked by hand, and keys that are named when a job cannot fit."""

import json
import struct
from pathlib import Path

import pytest

from shared.errors import BadJob
from shared.jobs.spec import JobSpec, parse_job
from shared.models.memory import GIB, Shape, estimate, largest_shape, misfit, read_architecture

# Qwen2.5-VL-7B-Instruct, from its config.json; two layers' matrices stand for the 28 by their shapes.
CONFIG = {
    "model_type": "qwen2_5_vl",
    "text_config": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
    },
}


def tensors() -> dict[str, list[int]]:
    found = {"model.embed_tokens.weight": [152064, 3584], "lm_head.weight": [152064, 3584]}
    for layer in range(28):
        name = f"model.layers.{layer}"
        found |= {f"{name}.self_attn.{each}.weight": [3584, 3584] for each in ("q_proj", "o_proj")}
        found |= {f"{name}.self_attn.{each}.weight": [512, 3584] for each in ("k_proj", "v_proj")}
        found |= {f"{name}.mlp.{each}.weight": [18944, 3584] for each in ("gate_proj", "up_proj", "down_proj")}
    return found | {"visual.blocks.0.attn.qkv.weight": [3840, 1280], "visual.merger.mlp.0.weight": [5120, 5120]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    header = json.dumps(
        {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in tensors().items()}
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return tmp_path


def job(folder: Path, **tables: object) -> JobSpec:
    return parse_job({"model": str(folder), "total_steps": 1, "data": {"train": ["x"]}, **tables})


LAYER = 2 * 3584 * 3584 + 2 * 512 * 3584 + 3 * 18944 * 3584
LLM = 2 * 152064 * 3584 + 28 * LAYER


def test_weights_are_counted_by_role_from_the_headers_alone(folder: Path) -> None:
    architecture = read_architecture(folder)
    assert architecture.weights == {"vit": 3840 * 1280, "connector": 5120 * 5120, "llm": LLM}
    assert (architecture.text.keys, architecture.patch_values, architecture.patches_per_token) == (512, 1176, 4)


def test_a_7b_in_bfloat16_has_two_bytes_a_weight_and_sixteen_a_trained_one(folder: Path) -> None:
    architecture = read_architecture(folder)
    memory = estimate(job(folder), architecture, Shape(1, 1, 1, 1), device="cuda")
    assert memory.device["parameters"] == 2 * sum(architecture.weights.values())
    assert [memory.device[part] for part in ("masters", "gradients", "moments")] == [4 * LLM, 4 * LLM, 8 * LLM]
    assert memory.host == {}


def test_states_go_to_the_host_into_8_bits_or_to_other_ranks(folder: Path) -> None:
    architecture, shape = read_architecture(folder), Shape(1, 1, 1, 1)

    def parts(ranks: int = 1, **learner: object) -> tuple[dict[str, int], dict[str, int]]:
        memory = estimate(job(folder, learner=learner), architecture, shape, device="cuda", ranks=ranks)
        return dict(memory.device), dict(memory.host)

    device, host = parts(optimizer_state="cpu")
    assert host == {"masters": 4 * LLM, "moments": 8 * LLM} and "moments" not in device
    assert parts(optimizer_state="8bit")[0]["moments"] == 2 * LLM
    device, _ = parts(4, engine="deepspeed", zero_stage=3)
    assert device["parameters"] == 2 * sum(architecture.weights.values()) // 4 and device["moments"] == 8 * LLM // 4


def test_adapters_are_sized_by_both_sides_of_each_matrix(folder: Path) -> None:
    sides = 28 * (2 * (3584 + 3584) + 2 * (512 + 3584))
    learner = {"lora_rank": 16, "lora_targets": ["attention"]}
    memory = estimate(job(folder, learner=learner), read_architecture(folder), Shape(1, 1, 1, 1), device="cuda")
    assert memory.device["moments"] == 8 * 16 * sides


def test_a_layer_that_is_computed_again_keeps_its_input_alone(folder: Path) -> None:
    architecture, shape = read_architecture(folder), Shape(tokens=1000, responses=1, gathered=0, patches=0)
    kept, recomputed = (
        estimate(job(folder, learner={"gradient_checkpointing": key}), architecture, shape, device="cuda")
        for key in ("off", "on")
    )
    # bfloat16: norms 2 (2 x 2 + 4) H, attention 3 x 2 H, MLP 4 x 2 I bytes a token.
    layer = 1000 * (16 * 3584 + 6 * 3584 + 8 * 18944)
    assert kept.device["activations"] == 28 * layer
    assert recomputed.device["activations"] == 28 * 1000 * 2 * 3584 + layer


def test_the_largest_micro_batch_keeps_to_the_jobs_bounds(folder: Path) -> None:
    shape = largest_shape(
        job(folder, learner={"tokens_per_batch": 16384}, sampling={"max_new_tokens": 1024}), read_architecture(folder)
    )
    assert (shape.tokens, shape.responses, shape.gathered) == (16384, 8192, 8192 + 8 * 9216)


def test_a_7b_does_not_fit_on_one_card_and_the_mildest_keys_that_make_it_fit_are_named(folder: Path) -> None:
    architecture = read_architecture(folder)
    sentence = misfit(job(folder), architecture, 80 * GIB, device="cuda")
    assert sentence is not None and "GiB on a device of 80.0 GiB" in sentence
    assert 'it fits with learner.gradient_checkpointing = "on", learner.optimizer_state = "cpu"' in sentence
    keys = {"gradient_checkpointing": "on", "optimizer_state": "cpu"}
    assert misfit(job(folder, learner=keys), architecture, 80 * GIB, device="cuda") is None
    assert "lora_rank = 16" in (misfit(job(folder), architecture, 40 * GIB, device="cuda") or "")
    assert "no keys make it fit" in (misfit(job(folder), architecture, 10 * GIB, device="cuda") or "")


def test_a_folder_without_weights_or_with_a_torn_header_is_one_sentence(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**40))
    with pytest.raises(BadJob, match=r"its size cannot be read: ValueError\('model.safetensors has a header"):
        read_architecture(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadJob, match="there is no safetensors file"):
        read_architecture(folder)


def test_what_config_json_leaves_to_defaults_comes_from_the_tensors(folder: Path) -> None:
    """As Gemma 3's names four numbers of its text model, and InternVL's patches have two sides."""
    told = read_architecture(folder)
    text = {name: CONFIG["text_config"][name] for name in ("hidden_size", "intermediate_size")}
    vision = {name: value for name, value in CONFIG["vision_config"].items() if name != "patch_size"}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "internvl", "text_config": text, "vision_config": vision | {"patch_size": [14, 14]}})
    )
    assert read_architecture(folder) == told
