import pytest
import torch
from transformers import AutoModelForImageTextToText

from services.learner.attention.batch import Part, pack
from services.learner.policy import lora
from services.learner.policy.model import Images
from shared.errors import BadJob
from shared.models.hf.adapters import merged

FROZEN = {"freeze": ["vit", "connector"]}
SHAPE = {"lengths": [4, 6], "rewards": [1.0, 0.0]}


def trained(make_engine, make_group, **learner):
    engine = make_engine(learner={"lora_rank": 4, **learner}, optimizer=FROZEN)
    for number in (1, 2, 3):
        engine.step([engine.ingest(*make_group(number, **SHAPE))], number)
    return engine


@pytest.mark.parametrize(
    ("targets", "freeze", "layers"),
    [
        (["attention"], ["vit", "connector"], 2 * 4),  # q, k, v, o of two layers
        (["mlp"], ["vit", "connector"], 2 * 3),  # gate, up, down
        (["attention", "mlp"], ["llm", "connector"], 2 * (2 + 3)),  # qkv, proj and the mlp of two blocks
        (["mlp"], ["llm", "vit"], 2),  # the merger's two
    ],
)
def test_adapters_are_where_roles_and_components_say(make_engine, targets, freeze, layers):
    engine = make_engine(learner={"lora_rank": 2, "lora_targets": targets}, optimizer={"freeze": freeze})
    assert len(lora.adapted(engine.model.hf)) == layers
    assert len(engine.model.trainable()) == 2 * layers
    assert all(".lora_" in name for name in engine.model.trainable())


def test_a_target_that_names_no_layer_is_refused(make_engine):
    with pytest.raises(BadJob, match=r"lora_targets \['attention'\] name no layer"):
        make_engine(learner={"lora_rank": 2, "lora_targets": ["attention"]}, optimizer={"freeze": ["vit", "llm"]})


def whole(engine):
    """The plain model's tensors, adapters merged."""
    return {each.name: each.value().clone() for each in engine.model.whole()}


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_changes_its_layers_alone(make_engine, make_group):
    plain, fresh = make_engine(), make_engine(learner={"lora_rank": 4}, optimizer=FROZEN)
    before, after = plain.weights(), whole(trained(make_engine, make_group))
    assert whole(fresh).keys() == before.keys() == after.keys()
    assert all(torch.equal(whole(fresh)[name], before[name]) for name in before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("language_model.layers" in name and "proj.weight" in name for name in changed)
    assert {f"{name}.weight" for name in lora.adapted(fresh.model.hf)} == changed


def test_adapters_alone_are_published_and_the_model_beneath_stays(make_engine, make_group):
    before, engine = make_engine().weights(), trained(make_engine, make_group)
    beneath, adapters = engine.weights("frozen"), engine.weights("trained")
    assert beneath.keys() == before.keys() and all(torch.equal(beneath[name], before[name]) for name in before)
    name = "model.language_model.layers.0.mlp.down_proj"
    assert adapters[f"{name}.lora_A.weight"].shape == (4, 32) and adapters[f"{name}.lora_B.weight"].shape == (24, 4)
    assert len(adapters) == 2 * len(lora.adapted(engine.model.hf))
    assert {tensor.dtype for tensor in adapters.values()} == {torch.float32}
    made = merged(before[f"{name}.weight"], adapters[f"{name}.lora_A.weight"], adapters[f"{name}.lora_B.weight"])
    assert torch.equal(made, whole(engine)[f"{name}.weight"])


def test_the_merged_model_is_the_one_that_was_trained(make_engine, make_group, tmp_path):
    engine = trained(make_engine, make_group)
    engine.save(tmp_path)
    group = engine.ingest(*make_group(9, **SHAPE))
    plain = make_engine(optimizer=FROZEN)
    plain.model.hf.load_state_dict(
        AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32).state_dict()
    )
    row = pack([Part(group, group.responses)], image_token_id=engine.inputs.image_token_id)
    image = group.images[0]
    images = Images({}, {image.name: engine.pixels.get(image)})
    ours, theirs = (one.model.token_values(row, images, 1.0).log_probs for one in (engine, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (ours - make_engine().model.token_values(row, images, 1.0).log_probs).abs().max() > 1e-2


def test_the_state_of_a_checkpoint_holds_adapters_alone(make_engine, make_group):
    state = trained(make_engine, make_group).engine._optimizer.state()
    assert all(".lora_" in key for key in state if "/" in key)
