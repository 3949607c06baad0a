"""The hf engine against the model's own forward pass: the same log-probs, whatever else is in the batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from blake3 import blake3

from services.rollout.engine import PreparedPrompt
from services.rollout.engines.hf import HfEngine
from shared.errors import Corrupt, UserError
from shared.messages import BlobRef, Completion, ImageRef, unpack_floats, unpack_ints
from shared.models.hf.forward import plain_arguments
from tests.published import weights_at
from tests.rollout.helpers import LIMITS, make_prompt, png


def prepared(engine: HfEngine, width: int = 84, shade: int = 0, **how: Any) -> PreparedPrompt:
    return engine.prepare(make_prompt(**how), [png(width, 84, shade)])


def naive_log_probs(engine: HfEngine, prompt: PreparedPrompt, completion: Completion, temperature: float) -> np.ndarray:
    """Log-probs (T,) of one completion by one plain forward pass over prompt and completion, image included."""
    answer = unpack_ints(completion.token_ids).astype(np.int64)
    return np.take_along_axis(naive_log_softmax(engine, prompt, answer, temperature), answer[:, None], 1)[:, 0]


def naive_log_softmax(engine: HfEngine, prompt: PreparedPrompt, answer: np.ndarray, temperature: float) -> np.ndarray:
    """(T, V), where the tokens (T,) of `answer` were sampled."""
    model = engine.model
    ids = np.concatenate([prompt.ids, answer.astype(prompt.ids.dtype)])
    with torch.no_grad():
        arguments = plain_arguments(engine.inputs, ids, prompt.images, model.device)
        logits = model(**arguments).logits[0, len(prompt.ids) - 1 : -1]
    logits[:, engine.inputs.banned] = -torch.inf
    return torch.log_softmax(logits / temperature, dim=-1).numpy()


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


class Late:
    """Gives each group once the one before has made so many tokens; drops `unwanted` after as many."""

    def __init__(self, prompts: Sequence[PreparedPrompt], tokens: int, unwanted: Sequence[int] = ()) -> None:
        self._left, self._every, self._unwanted, self._looks = list(prompts), tokens, list(unwanted), 0

    def ready(self, busy: int) -> int:
        """So many that they begin at once."""
        return busy if self._left and self._looks >= self._every else 0

    def take(self, busy: int) -> Sequence[PreparedPrompt]:
        if not self._left or (busy and self._looks < self._every):
            return ()
        self._looks = 0
        return [self._left.pop(0)]

    def cancelled(self) -> Sequence[int]:
        self._looks += 1
        if self._looks < self._every or self._left:
            return ()
        unwanted, self._unwanted = self._unwanted, []
        return unwanted


def late_cases(engine: HfEngine) -> list[PreparedPrompt]:
    """Longer and shorter prompts and completions than those that they join, with and without an image."""
    return [
        prepared(engine, seed=5, tokens=60),
        prepared(engine, 168, 40, text="<image>Where?", seed=6, tokens=40, n=2),
        engine.prepare(make_prompt("How many?", seed=7, tokens=50, n=3), []),
        prepared(engine, 252, 90, text="<image>How many blue squares are there? Where?", seed=8, tokens=9),
        prepared(engine, 84, text="<image>Where?", seed=9, temperature=0.0, n=1),
    ]


@pytest.mark.parametrize("tokens", [1, 9])
def test_a_group_is_the_same_when_it_joins_others_that_are_being_generated(engine: HfEngine, tokens: int) -> None:
    prompts = late_cases(engine)
    joined = dict(engine.stream(Late(prompts, tokens)))
    assert sorted(joined) == list(range(len(prompts)))
    for number, prompt in enumerate(prompts):
        alone = dict(engine.generate([prompt]))[0]
        for one, other in zip(joined[number], alone, strict=True):
            same_but_for_rounding(engine, prompt, one, other)


class Second:
    """A group of `first`, and from the third token on another one that waits; `began` after so many tokens."""

    def __init__(self, first: PreparedPrompt, other: PreparedPrompt) -> None:
        self._first, self._other, self._tokens, self.began = [first], other, -1, 0

    def ready(self, busy: int) -> int:
        return self._other.sampling.n if self._tokens >= 3 and not self.began else 0

    def take(self, busy: int) -> Sequence[PreparedPrompt]:
        if not self.ready(busy):
            first, self._first = self._first, []
            return first
        self.began = self._tokens
        return [self._other]

    def cancelled(self) -> Sequence[int]:
        self._tokens += 1
        return ()


@pytest.mark.parametrize(("n", "began"), [(4, 3), (3, 16)])
def test_groups_that_wait_begin_at_once_where_they_are_as_many_as_the_busy_ones(
    engine: HfEngine, monkeypatch: pytest.MonkeyPatch, n: int, began: int
) -> None:
    """Else after 16 tokens: no row of the first one ends before."""
    monkeypatch.setattr(engine, "_ends", torch.zeros_like(engine._ends))
    feed = Second(prepared(engine, seed=5, n=4, tokens=20), prepared(engine, seed=6, n=n, tokens=2))
    assert sorted(number for number, _ in engine.stream(feed)) == [0, 1]
    assert feed.began == began


def same_but_for_rounding(engine: HfEngine, prompt: PreparedPrompt, one: Completion, other: Completion) -> None:
    """Equal log-probs and tokens, up to one that was drawn on the border of two."""
    ids, others = unpack_ints(one.token_ids).tolist(), unpack_ints(other.token_ids).tolist()
    count = next((at for at, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), len(ids))
    found, expected = unpack_floats(one.log_probs)[:count], unpack_floats(other.log_probs)[:count]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    if count < len(ids):
        first, last = sorted((ids[count], others[count]))
        probs = np.exp(naive_log_softmax(engine, prompt, np.array(ids), prompt.sampling.temperature)[count])
        assert probs[first + 1 : last].sum() < 1e-5, "no neighbours"
    expected = naive_log_probs(engine, prompt, one, prompt.sampling.temperature or 1.0)
    np.testing.assert_allclose(unpack_floats(one.log_probs), expected, atol=2e-5)


def test_a_cancelled_group_is_dropped_and_the_others_go_on(engine: HfEngine) -> None:
    prompts = late_cases(engine)[:3]
    made = dict(engine.stream(Late(prompts, 2, unwanted=[0])))
    assert sorted(made) == [1, 2]
    for one, other in zip(made[2], dict(engine.generate(prompts[2:]))[0], strict=True):
        same_but_for_rounding(engine, prompts[2], one, other)


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


# ---------------------------------------------------------------- sleep


def test_an_engine_that_sleeps_holds_no_parameter_and_is_not_woken_by_a_part_of_them(
    engine: HfEngine, tmp_path: Path
) -> None:
    weights = {name: tensor.clone() for name, tensor in engine.model.state_dict().items() if name != "lm_head.weight"}
    before = dict(engine.generate([prepared(engine, seed=4)]))
    engine.sleep()
    assert sum(parameter.nbytes for parameter in engine.model.parameters()) == 0
    engine.load(weights_at(tmp_path / "whole", 1, weights))
    after = dict(engine.generate([prepared(engine, seed=4)]))
    assert [one.log_probs for one in after[0]] == [one.log_probs for one in before[0]]
    engine.sleep()
    part = {name: tensor for name, tensor in weights.items() if "visual" not in name}
    with pytest.raises(Corrupt, match="expected all tensors"):
        engine.load(weights_at(tmp_path / "part", 2, part))


# ---------------------------------------------------------------- image features


def asked(engine: HfEngine, text: str, shade: int = 0) -> PreparedPrompt:
    """A prompt whose image has a name."""
    data = png(84, 84, shade)
    image = ImageRef(blob=BlobRef(digest=blake3(data).hexdigest(), size=len(data)), width=84, height=84)
    question = msgspec.structs.replace(make_prompt(text, n=2), images=[image])
    return engine.prepare(question, [data])


@pytest.fixture
def seen(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that the vision tower has seen, by pass; those of the plain forward passes of a test left out."""
    counts: list[int] = []
    whole = engine.model.model.get_image_features

    def counted(*arguments: Any, **named: Any) -> Any:
        counts.extend([len(named["image_grid_thw"])] if "image_grid_thw" in named else [])
        return whole(*arguments, **named)

    monkeypatch.setattr(engine.model.model, "get_image_features", counted)
    return counts


def test_the_vision_tower_sees_an_image_once_whatever_is_asked_about_it(seen: list[int], engine: HfEngine) -> None:
    engine._features.max_bytes = 2**20
    both = [asked(engine, "<image>How many?"), asked(engine, "<image>Where is it?")]
    dict(engine.generate(both))
    later = asked(engine, "<image>What is the largest one?")
    (_, completions), *_ = engine.generate([later])
    assert seen == [1]
    for completion in completions:
        expected = naive_log_probs(engine, later, completion, 1.0)
        np.testing.assert_allclose(unpack_floats(completion.log_probs), expected, atol=2e-5)


@pytest.mark.parametrize(("part", "passes"), [("language_model.layers", 1), ("visual.blocks", 2), ("visual.merger", 2)])
def test_kept_features_go_with_the_weights_that_made_them(
    engine: HfEngine, seen: list[int], tmp_path: Path, part: str, passes: int
) -> None:
    engine._features.max_bytes = 2**20
    question = asked(engine, "<image>How many?")
    dict(engine.generate([question]))
    moved = {name: tensor + 0.05 for name, tensor in engine.model.state_dict().items() if part in name}
    engine.load(weights_at(tmp_path, 1, moved))
    (_, completions), *_ = engine.generate([question])
    assert len(seen) == passes
    expected = naive_log_probs(engine, question, completions[0], 1.0)
    np.testing.assert_allclose(unpack_floats(completions[0].log_probs), expected, atol=2e-5)


def test_kept_features_are_bounded(engine: HfEngine, seen: list[int]) -> None:
    one = asked(engine, "<image>How many?")
    dict(engine.generate([one]))
    engine._features.max_bytes = 0
    dict(engine.generate([one]))
    dict(engine.generate([one]))
    assert len(seen) == 3 and not engine._features._kept
