import shutil
from concurrent.futures import ThreadPoolExecutor

import blake3
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from services.learner.engine import DoesNotFit
from services.learner.engines.torch import TorchEngine, fits
from services.learner.intake.ingest import GroupIngest
from services.learner.policy.model import Images
from services.learner.policy.optimizer import Diverged
from shared.errors import BadJob, Corrupt
from shared.jobs.document import parse_job
from tests.learner.conftest import SHAPES


def ready_groups(engine, make_group, first=0):
    return [engine.ingest(*make_group(first + index, **shape)) for index, shape in enumerate(SHAPES)]


def step(engine, groups, number=1, importance=False):
    return engine.step(groups, number, importance)


def digest(engine) -> str:
    hasher = blake3.blake3()
    for name, tensor in sorted(engine.weights().items()):
        hasher.update(name.encode())
        hasher.update(tensor.view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


@pytest.mark.parametrize(
    ("learner", "frozen"),
    [
        ({"dtype": "float32"}, []),
        ({"dtype": "bfloat16"}, ["vit", "connector"]),
        ({"dtype": "bfloat16", "optimizer_state": "8bit"}, []),
        ({"dtype": "float32", "lora_rank": 4}, []),
        ({"dtype": "bfloat16", "lora_rank": 2, "gradient_checkpointing": "on"}, ["vit", "connector"]),
        ({"dtype": "bfloat16", "optimizer_state": "cpu", "gradient_checkpointing": "on"}, []),
    ],
)
def test_two_fresh_engines_and_one_from_a_checkpoint_end_with_equal_bits(
    make_engine, make_group, tmp_path, learner, frozen
):
    settings = {
        "algorithm": {"updates_per_step": 2, "prompts_per_step": 5},
        "learner": {"tokens_per_batch": 40, **learner},
        "optimizer": {"freeze": frozen},
    }
    one, other = make_engine(**settings), make_engine(**settings)
    for number in (1, 2, 3):
        step(one, ready_groups(one, make_group, 10 * number), number, importance=True)
        step(other, ready_groups(other, make_group, 10 * number), number, importance=True)
        if number == 1:
            one.save(tmp_path)
    assert digest(one) == digest(other)
    resumed = make_engine(tmp_path, **settings)
    for number in (2, 3):
        step(resumed, ready_groups(resumed, make_group, 10 * number), number, importance=True)
    assert digest(resumed) == digest(one)


def test_a_step_does_not_depend_on_the_micro_batch_size(make_engine, make_group):
    found = []
    for budget in (10_000, 45, 1):
        engine = make_engine(learner={"tokens_per_batch": budget})
        result = step(engine, ready_groups(engine, make_group))
        found.append((result.metrics, engine.weights("trained")))
    for metrics, weights in found[1:]:
        for name in ("loss", "grad_norm", "entropy", "mismatch_abs", "mismatch_k3", "mismatch_max", "tokens"):
            assert metrics[name] == pytest.approx(found[0][0][name], rel=1e-4, abs=1e-6), name
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, found[0][1][name], atol=2e-4, rtol=0)


def test_the_loss_is_the_mean_over_all_tokens_of_the_update(make_engine, make_group):
    # With one update the ratio is 1, so that a token's loss is minus its advantage.
    engine = make_engine()
    groups = ready_groups(engine, make_group)
    result = step(engine, groups)
    rows = [row for group in groups for row in group.responses]
    tokens = sum(len(row.token_ids) for row in rows)
    assert result.num_response_tokens == tokens == 58
    assert result.metrics["loss"] == pytest.approx(-sum(row.advantage * len(row.token_ids) for row in rows) / tokens)
    assert result.metrics["ppo_kl"] == 0.0 and result.metrics["clip_high"] == 0.0


def test_mismatch_is_measured_against_the_rollouts_log_probs(make_engine, make_group, make_spec):
    engine = make_engine()
    groups = ready_groups(engine, make_group)
    result = step(engine, groups)
    assert result.metrics["mismatch_abs"] > 0.1
    assert result.metrics["mismatch_max"] >= result.metrics["mismatch_abs"]


def test_one_update_needs_no_pass_for_the_old_policy_and_more_do(make_engine, make_group):
    one, two = make_engine(), make_engine(algorithm={"updates_per_step": 2, "prompts_per_step": 5})
    groups = ready_groups(one, make_group)
    assert step(one, groups, importance=True).seconds.get("proximal", 0.0) < 1e-3
    result = step(two, groups)
    assert result.updates == 2 and result.metrics["ppo_kl"] != 0.0


def test_truncated_importance_weights_scale_the_loss(make_engine, make_group):
    # The policy is far likelier than the rollout said for every token: all weights are at the cap of 2.
    engine, weighted = make_engine(), make_engine()
    groups = ready_groups(engine, make_group)
    for group in groups:
        for row in group.responses:
            object.__setattr__(row, "log_probs", np.full_like(row.log_probs, -30.0))
    plain, doubled = step(engine, groups), step(weighted, groups, importance=True)
    assert doubled.metrics["importance_weight"] == pytest.approx(2.0)
    assert doubled.metrics["loss"] == pytest.approx(2 * plain.metrics["loss"])
    assert doubled.metrics["grad_norm"] == pytest.approx(2 * plain.metrics["grad_norm"], rel=1e-4)


def test_the_policy_moves_towards_the_better_answer(make_engine, make_group):
    engine = make_engine(optimizer={"learning_rate": 3e-3})
    ready = engine.ingest(*make_group(0, lengths=[4, 4], rewards=[1.0, 0.0]))
    gaps = []
    for number in range(1, 6):
        values = engine.model.token_values(*packed(engine, ready), 1.0).log_probs
        gaps.append((values[:4].sum() - values[4:].sum()).item())
        step(engine, [ready], number)
    assert gaps == sorted(gaps) and gaps[-1] > gaps[0] + 0.1


def packed(engine, ready):
    from services.learner.attention.batch import Part, pack

    image = ready.images[0]
    row = pack([Part(ready, ready.responses)], image_token_id=engine.inputs.image_token_id)
    return row, Images({}, {image.name: engine.pixels.get(image)})


@pytest.mark.parametrize(("asked", "tokens"), [(False, 44), (True, 58)])
def test_uniform_groups_count_in_the_mean_and_are_computed_only_when_asked(make_engine, make_group, asked, tokens):
    # SHAPES holds 58 tokens: 8 of a group whose rewards are all equal, 6 of one that has a single verdict.
    one, other = make_engine(), make_engine(learner={"measure_uniform": asked})
    groups = ready_groups(one, make_group)
    step(one, groups)
    result = step(other, groups)
    assert (result.metrics["measured_tokens"], result.num_response_tokens) == (tokens, 58)
    for name, tensor in one.weights().items():
        torch.testing.assert_close(other.weights()[name], tensor, atol=2e-4, rtol=0)


def test_without_a_gradient_only_momentum_moves_the_weights(make_engine, make_group):
    engine = make_engine()
    step(engine, ready_groups(engine, make_group), 1)
    moment = "exp_avg/model.language_model.norm.weight"
    before = engine.engine._optimizer.state()[moment].clone()
    result = step(engine, [engine.ingest(*make_group(9, rewards=[0.5, 0.5]))], 2)
    assert result.metrics["grad_norm"] == 0.0 and result.metrics["entropy"] > 0.0 and result.updates == 1
    torch.testing.assert_close(engine.engine._optimizer.state()[moment], 0.9 * before)


def test_a_step_whose_completions_are_all_empty_makes_no_update(make_engine, make_group):
    engine = make_engine()
    result = step(engine, [engine.ingest(*make_group(0, lengths=[0, 0]))])
    assert (result.updates, result.num_response_tokens) == (0, 0)


def test_ten_updates_without_a_finite_gradient_end_the_run(make_engine, make_group):
    engine = make_engine()
    group = engine.ingest(*make_group(0))
    before = digest(engine)
    engine.model.hf.lm_head.weight.register_hook(lambda gradient: gradient * float("nan"))
    for _ in range(9):
        result = step(engine, [group])
        assert (result.updates, result.skipped) == (0, 1) and "grad_norm" not in result.metrics
    assert digest(engine) == before
    with pytest.raises(Diverged, match="10 updates in a row"):
        step(engine, [group])


def test_groups_can_be_taken_in_while_a_step_runs(make_engine, make_group):
    engine, alone = make_engine(), make_engine()
    groups = ready_groups(engine, make_group)
    step(alone, groups)
    with ThreadPoolExecutor(1) as pool:
        others = [pool.submit(engine.ingest, *make_group(100 + ordinal)) for ordinal in range(20)]
        step(engine, groups)
        assert [future.result(timeout=30).ordinal for future in others] == list(range(100, 120))
    assert digest(engine) == digest(alone)


@pytest.mark.parametrize("frozen", [["vit", "connector"], ["llm"]])
def test_frozen_components_keep_their_bits_and_are_not_published(make_engine, make_group, frozen):
    engine = make_engine(optimizer={"freeze": frozen})
    before = engine.weights()
    result = step(engine, ready_groups(engine, make_group))
    after, published = engine.weights(), engine.weights("trained")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and changed <= published.keys() < before.keys()
    assert not any(f"grad_norm/{component}" in result.metrics for component in frozen)


def test_weights_are_contiguous_copies_and_a_tied_tensor_comes_once(make_engine):
    engine = make_engine()
    weights = engine.weights()
    assert "model.language_model.embed_tokens.weight" in weights and "lm_head.weight" not in weights
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in weights.values())
    weights["model.language_model.embed_tokens.weight"].zero_()
    assert engine.model.hf.lm_head.weight.abs().sum() > 0


def test_bfloat16_parameters_are_their_float32_masters_rounded(make_engine, make_group):
    engine = make_engine(learner={"dtype": "bfloat16"}, optimizer={"learning_rate": 1e-4})
    for number in (1, 2, 3):
        step(engine, ready_groups(engine, make_group, 10 * number), number)
    state = engine.engine._optimizer.state()
    for name, parameter in engine.model.hf.named_parameters():
        assert parameter.dtype == torch.bfloat16 and parameter.grad is None
        assert torch.equal(parameter, state["master/" + name].bfloat16())
    assert {tensor.dtype for tensor in engine.weights().values()} == {torch.bfloat16}


def test_queries_keys_and_values_reach_attention_in_bfloat16(make_engine, make_group, monkeypatch):
    from services.learner.attention import packed

    seen, computed = set(), packed._over_blocks

    def look(layout, masks, states, scaling):
        seen.update(part.dtype for part in states)
        return computed(layout, masks, states, scaling)

    monkeypatch.setattr(packed, "_over_blocks", look)
    engine = make_engine(learner={"dtype": "bfloat16"})
    step(engine, ready_groups(engine, make_group))
    assert seen == {torch.bfloat16}


def test_a_bfloat16_step_has_the_gradient_of_a_float32_step_to_its_own_precision(make_engine, make_group):
    norms = []
    for dtype in ("float32", "bfloat16"):
        engine = make_engine(learner={"dtype": dtype, "tokens_per_batch": 45})
        norms.append(step(engine, ready_groups(engine, make_group)).metrics["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moments_in_the_hosts_memory_give_equal_bits(make_engine, make_group, dtype):
    engines = [make_engine(learner={"dtype": dtype, "optimizer_state": state}) for state in ("float32", "cpu")]
    for number in (1, 2):
        for engine in engines:
            step(engine, ready_groups(engine, make_group, 10 * number), number)
    assert digest(engines[0]) == digest(engines[1])


def test_moments_in_8_bits_follow_those_in_32_closely(make_engine, make_group):
    settings = {"learning_rate": 1e-3}
    one, other = (make_engine(learner={"optimizer_state": state}, optimizer=settings) for state in ("float32", "8bit"))
    before = one.weights()
    for number in (1, 2, 3):
        step(one, ready_groups(one, make_group, 10 * number), number)
        step(other, ready_groups(other, make_group, 10 * number), number)
    large = "model.visual.patch_embed.proj.weight"  # the one tensor that is large enough for 8 bits
    assert other.engine._optimizer.state()[f"state1/{large}"].dtype == torch.uint8
    moved = (one.weights()[large] - before[large]).norm()
    assert (other.weights()[large] - one.weights()[large]).norm() < 0.1 * moved


def test_a_checkpoint_of_another_job_is_refused(make_engine, make_group, tmp_path):
    engine = make_engine()
    step(engine, ready_groups(engine, make_group))
    engine.save(tmp_path)
    with pytest.raises(Corrupt, match="the job trains no such parameter"):
        make_engine(tmp_path, optimizer={"freeze": ["llm"]})


@pytest.mark.parametrize("name", ["/does/not/exist", "no/such-model"])
def test_a_missing_model_is_one_clear_sentence(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spec = parse_job({"model": name, "total_steps": 1, "data": {"train": ["x"]}})
    with pytest.raises(BadJob, match=f"model '{name}' cannot be loaded") as caught:
        GroupIngest(spec)
    assert len(caught.value.mistakes) == 1 and "\n" not in str(caught.value)


def open_learner(spec):
    return TorchEngine(GroupIngest(spec).pixels).open(spec, None)


def test_a_model_folder_without_some_weights_is_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "merger" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadJob, match=r"it has no weights for 'model\.visual\.merger\.ln_q\.weight' and 4 others"):
        open_learner(parse_job({"model": str(folder), "total_steps": 1, "data": {"train": ["x"]}}))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_torn_model_folder_is_refused(model_folder, tmp_path, name):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / name).write_bytes((folder / name).read_bytes()[:60])
    with pytest.raises(BadJob, match="cannot be loaded: "):
        open_learner(parse_job({"model": str(folder), "total_steps": 1, "data": {"train": ["x"]}}))


def test_a_device_without_enough_memory_is_one_sentence_that_names_the_key_to_lower() -> None:
    spec = parse_job({"model": "m", "total_steps": 1, "data": {"train": ["x"]}})
    with pytest.raises(DoesNotFit, match=r"lower learner.tokens_per_batch.*\(tried to allocate 20 GiB\)"), fits(spec):
        raise torch.OutOfMemoryError("tried to allocate 20 GiB\nmore")


@pytest.mark.parametrize("learner", [{"dtype": "bfloat16"}, {"dtype": "float32", "lora_rank": 4}])
def test_an_engine_that_left_its_device_between_two_steps_ends_with_equal_bits(
    make_engine, make_group, tmp_path, learner
):
    """On a CPU nothing moves; parameters, masters and moments must be the same objects all the same."""
    digests = []
    for leaves in (False, True):
        engine = make_engine(learner=learner)
        for number in (1, 2):
            step(engine, ready_groups(engine, make_group, first=10 * number), number)
            if leaves:
                engine.engine.sleep()
                engine.save(tmp_path)
                engine.engine.wake()
        digests.append(digest(engine))
    assert digests[0] == digests[1]
