"""The hf engine against the model's own forward pass: the same log-probs, whatever else is in the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.rollout.engine import PreparedPrompt
from services.rollout.engines.hf import HfEngine
from shared.errors import Corrupt, UserError
from shared.messages import Completion, unpack_floats, unpack_ints
from shared.models.hf.forward import plain_arguments
from tests.published import weights_at
from tests.rollout.helpers import LIMITS, make_prompt, png


def prepared(engine: HfEngine, width: int = 84, shade: int = 0, **how: Any) -> PreparedPrompt:
    return engine.prepare(make_prompt(**how), [png(width, 84, shade)])


def naive_log_probs(engine: HfEngine, prompt: PreparedPrompt, completion: Completion, temperature: float) -> np.ndarray:
    """Log-probs of one completion by one plain forward pass over prompt and completion, image included."""
    model, answer = engine.model, unpack_ints(completion.token_ids)
    ids = np.concatenate([prompt.ids, answer])
    with torch.no_grad():
        arguments = plain_arguments(engine.inputs, ids, prompt.images, model.device)
        logits = model(**arguments).logits[0, len(prompt.ids) - 1 : -1]
    logits[:, engine.inputs.banned] = -torch.inf
    log_probs = torch.log_softmax(logits / temperature, dim=-1)
    return log_probs.gather(1, torch.from_numpy(answer.astype(np.int64))[:, None])[:, 0].numpy()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_a_plain_forward_pass(engine: HfEngine, temperature: float) -> None:
    """Prompts of different lengths, numbers of completions and image sizes in one batch."""
    prompts = [
        prepared(engine, temperature=temperature, seed=1),
        prepared(engine, 168, text="<image>Where?", n=2, temperature=temperature, seed=2, tokens=30),
        prepared(
            engine, 84, 90, text="<image>How many blue squares are there? Where?", temperature=temperature, seed=3
        ),
    ]
    seen = set()
    for index, completions in engine.generate(prompts):
        seen.add(index)
        assert len(completions) == prompts[index].sampling.n
        for completion in completions:
            expected = naive_log_probs(engine, prompts[index], completion, temperature)
            np.testing.assert_allclose(unpack_floats(completion.log_probs), expected, atol=2e-5)
    assert seen == {0, 1, 2}


def test_a_group_does_not_depend_on_the_others_in_the_batch(engine: HfEngine) -> None:
    one, other = prepared(engine, seed=5), prepared(engine, 168, 40, text="<image>Where?", seed=6, tokens=40)
    alone = dict(engine.generate([one]))[0]
    together = dict(engine.generate([other, one]))[1]
    assert [c.token_ids for c in alone] == [c.token_ids for c in together]
    assert len({c.token_ids for c in alone}) > 1


def test_greedy_takes_the_most_probable_token_that_is_not_banned(engine: HfEngine) -> None:
    prompt = prepared(engine, n=1, temperature=0.0)
    (completion,) = dict(engine.generate([prompt]))[0]
    expected = naive_log_probs(engine, prompt, completion, 1.0)
    np.testing.assert_allclose(unpack_floats(completion.log_probs), expected, atol=2e-5)
    assert dict(engine.generate([prompt]))[0][0].token_ids == completion.token_ids
    banned = engine.inputs.banned
    assert not set(unpack_ints(completion.token_ids).tolist()) & set(banned)


def test_no_completion_holds_a_banned_token(engine: HfEngine) -> None:
    banned = set(engine.inputs.banned)
    prompts = [prepared(engine, seed=seed, n=16, tokens=40) for seed in range(4)]
    for _, completions in engine.generate(prompts):
        for completion in completions:
            assert not banned & set(unpack_ints(completion.token_ids).tolist())


def test_a_completion_ends_with_its_end_token_or_at_the_limit(engine: HfEngine) -> None:
    ends = set(engine.model.generation_config.eos_token_id)
    finishes = set()
    for _, completions in engine.generate([prepared(engine, n=64, tokens=90)]):
        for completion in completions:
            ids = unpack_ints(completion.token_ids).tolist()
            assert not ends & set(ids[:-1])
            assert (ids[-1] in ends) == (completion.finish == "stop")
            assert completion.finish == "stop" or len(ids) == 90
            assert completion.versions == [(-1, len(ids))]
            finishes.add(completion.finish)
    assert finishes == {"stop", "length"}


def test_a_group_comes_out_before_longer_ones_have_ended(engine: HfEngine) -> None:
    prompts = [prepared(engine, tokens=60, seed=1), prepared(engine, tokens=3, seed=2)]
    assert [index for index, _ in engine.generate(prompts)] == [1, 0]


def test_a_prompt_without_an_image_is_fine_beside_one_with(engine: HfEngine) -> None:
    text_only = engine.prepare(make_prompt("How many?"), [])
    assert {index for index, _ in engine.generate([text_only, prepared(engine)])} == {0, 1}


def test_loaded_tensors_are_used_and_their_version_stamped(engine: HfEngine, tmp_path: Path) -> None:
    prompt = prepared(engine, n=2)
    before = dict(engine.generate([prompt]))[0]
    name = "model.language_model.embed_tokens.weight"
    tensor = engine.model.state_dict()[name]
    engine.load(weights_at(tmp_path, 3, {name: tensor.flip(1)}))
    after = dict(engine.generate([prompt]))[0]
    assert engine.version == 3 and after[0].versions == [(3, after[0].num_tokens)]
    assert [c.token_ids for c in before] != [c.token_ids for c in after]
    engine.load(weights_at(tmp_path, 4, {name: tensor.flip(1)}))
    assert [c.token_ids for c in dict(engine.generate([prompt]))[0]] == [c.token_ids for c in before]


@pytest.mark.parametrize(
    ("tensors", "said"),
    [({"foreign.weight": torch.zeros(1)}, "no such tensor"), ({"lm_head.weight": torch.zeros(2, 2)}, "model has")],
)
def test_foreign_weights_are_refused(
    engine: HfEngine, tensors: dict[str, torch.Tensor], said: str, tmp_path: Path
) -> None:
    with pytest.raises(Corrupt, match=said):
        engine.load(weights_at(tmp_path, 1, tensors))


def test_weights_that_are_not_finite_are_refused_when_they_sample(engine: HfEngine, tmp_path: Path) -> None:
    name = "model.language_model.norm.weight"
    engine.load(weights_at(tmp_path, 1, {name: torch.full_like(engine.model.state_dict()[name], torch.nan)}))
    with pytest.raises(Corrupt, match="not finite"):
        list(engine.generate([prepared(engine)]))


def test_a_missing_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        HfEngine.open(str(tmp_path / "nowhere"), dtype="float32", limits=LIMITS)
