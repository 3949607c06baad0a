"""What every engine must do, whatever it is: each engine's test module runs these on its own."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.rollout.engine import Engine, Prepared, PreparedPrompt
from services.rollout.engines.prepare import prepare
from shared.blobs.weights import WeightsAt
from shared.errors import BadSample, Corrupt
from shared.messages import Completion, Prompt, unpack_floats, unpack_ints
from shared.models.hf.forward import plain_arguments
from shared.models.hf.loading import open_inputs, open_model
from tests.published import weights_at
from tests.rollout.helpers import LIMITS, make_prompt, png

TOLERANCE = 2e-5
"""Of a log-prob in float32."""


class Plain:
    """The same model by its own forward pass, and nothing else of the engines."""

    def __init__(self, folder: Path) -> None:
        self.model = open_model(str(folder), dtype=torch.float32).eval()
        self.inputs = open_inputs(str(folder))

    def prepare(self, prompt: Prompt, images: list[bytes]) -> PreparedPrompt:
        return prepare(prompt, images, self.inputs, LIMITS.max_prompt_tokens)

    def log_softmax(self, prompt: Prompt, images: list[bytes], answer: np.ndarray, temperature: float) -> torch.Tensor:
        """(T, V): of each answer token's position, the banned tokens removed."""
        seen = self.prepare(prompt, images)
        ids = np.concatenate([seen.ids, answer])
        with torch.no_grad():
            logits = self.model(**plain_arguments(self.inputs, ids, seen.images, self.model.device)).logits[0]
        logits = logits[len(seen.ids) - 1 : -1]
        logits[:, self.inputs.banned] = -torch.inf
        return torch.log_softmax(logits / temperature, dim=-1)

    def agrees(self, prompt: Prompt, images: list[bytes], completion: Completion, since: int = 0) -> None:
        """The completion's tokens from `since` on have this model's log-probs, and are its choice if greedy."""
        answer = unpack_ints(completion.token_ids)
        temperature = prompt.sampling.temperature or 1.0
        expected = self.log_softmax(prompt, images, answer, temperature)[since:]
        chosen = torch.from_numpy(answer[since:].astype(np.int64))
        found = expected.gather(1, chosen[:, None])[:, 0].numpy()
        np.testing.assert_allclose(unpack_floats(completion.log_probs)[since:], found, atol=TOLERANCE)
        if prompt.sampling.temperature == 0:
            assert torch.equal(expected.argmax(dim=-1), chosen)

    def change(self, folder: Path, version: int, part: str) -> WeightsAt:
        """A version in which the tensors whose name has `part` are others, here and in its file."""
        generator = torch.Generator().manual_seed(version)
        changed = {}
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                if part in name and name != "lm_head.weight":
                    tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
                    changed[name] = tensor.clone()
        assert changed, part
        return weights_at(folder / f"v{version}", version, changed)

    def adapt(self, folder: Path, version: int) -> WeightsAt:
        """A version with adapters on some layers of all kinds, over the model beneath; here they are merged."""
        generator = torch.Generator().manual_seed(version)
        held = {name: tensor.clone() for name, tensor in self.model.state_dict().items() if name != "lm_head.weight"}
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                if not name.endswith(("layers.0.self_attn.q_proj.weight", "layers.1.mlp.down_proj.weight")):
                    continue
                down, up = (
                    torch.randn(shape, generator=generator) for shape in ((3, tensor.shape[1]), (len(tensor), 3))
                )
                layer = name.removesuffix(".weight")
                held |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": 0.1 * up}
                tensor += 0.1 * up @ down
        return weights_at(folder / f"v{version}", version, held)


async def sample(engine: Engine, prompt: Prompt, images: list[bytes], key: str = "") -> list[Completion]:
    prepared = await engine.prepare(prompt, images)
    return await engine.generate(prepared, key=key or f"{prompt.ordinal}")


def case(ordinal: int = 0, width: int = 84, shade: int = 0, **how: Any) -> tuple[Prompt, list[bytes]]:
    """A prompt with one image of 84 x `width` pixels."""
    return make_prompt(ordinal=ordinal, **how), [png(width, 84, shade)]


class EngineContract:
    """Subclasses give the fixtures `engine` (with random weights, fresh or brought back) and `plain` (the same)."""

    @pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
    async def test_log_probs_are_those_of_a_plain_forward_pass(
        self, engine: Engine, plain: Plain, temperature: float
    ) -> None:
        """Prompts of other lengths, numbers of completions and images, and one without an image, at the same time."""
        n = 4 if temperature else 1
        cases = [
            case(0, temperature=temperature, n=n),
            case(1, 168, text="<image>Where?", n=max(1, n - 2), temperature=temperature, seed=2, tokens=30),
            case(2, 100, 90, text="<image>How many blue squares are there?", n=n, temperature=temperature, seed=3),
            (make_prompt("How many?", ordinal=3, n=n, temperature=temperature), []),
        ]
        groups = await asyncio.gather(*(sample(engine, prompt, images) for prompt, images in cases))
        for (prompt, images), completions in zip(cases, groups, strict=True):
            assert len(completions) == prompt.sampling.n
            for completion in completions:
                plain.agrees(prompt, images, completion)

    async def test_it_says_how_near_it_is_to_the_models_own_forward_pass(self, engine: Engine) -> None:
        assert 0.0 <= float(engine.facts["self_check"]) < TOLERANCE

    async def test_the_prompt_is_the_one_that_the_learner_computes(self, engine: Engine, plain: Plain) -> None:
        prompt, images = case(width=333)
        prepared = await engine.prepare(prompt, images)
        seen = plain.prepare(prompt, images)
        assert prepared.ids.tolist() == seen.ids.tolist()
        assert prepared.image_grid_thw == seen.image_grid_thw
        assert engine.patch_size == plain.inputs.patch_size

    async def test_no_completion_holds_a_banned_token_and_each_ends_as_it_says(
        self, engine: Engine, plain: Plain
    ) -> None:
        ends = set(plain.inputs.ends)
        banned = set(plain.inputs.banned)
        finishes = set()
        for completion in await sample(engine, *case(n=48, tokens=90)):
            ids = unpack_ints(completion.token_ids).tolist()
            assert not banned & set(ids) and not ends & set(ids[:-1])
            assert (ids[-1] in ends) == (completion.finish == "stop")
            assert completion.finish == "stop" or len(ids) == 90
            assert sum(tokens for _, tokens in completion.versions) == len(ids) == len(completion.log_probs) // 4
            finishes.add(completion.finish)
        assert finishes == {"stop", "length"}

    async def test_a_group_is_the_same_whatever_else_is_generated(self, engine: Engine) -> None:
        one, other = case(0, seed=5), case(1, 168, 40, text="<image>Where?", seed=6, tokens=40)
        alone = await sample(engine, *one, key="alone")
        together, _ = await asyncio.gather(sample(engine, *one, key="together"), sample(engine, *other))
        assert [c.token_ids for c in alone] == [c.token_ids for c in together]
        assert len({c.token_ids for c in alone}) > 1

    async def test_groups_of_neighbouring_seeds_share_no_sample(self, engine: Engine) -> None:
        first, second = await asyncio.gather(*(sample(engine, *case(seed, seed=seed, tokens=24)) for seed in (7, 8)))
        assert not {c.token_ids for c in first} & {c.token_ids for c in second}

    async def test_loaded_tensors_are_used_and_their_version_is_stamped(
        self, engine: Engine, plain: Plain, tmp_path: Path
    ) -> None:
        """The language model, the vision tower and its connector, one after the other, each under a cached image."""
        question = case(0, 168, n=1, temperature=0.0, tokens=20)
        before = await sample(engine, *question)
        for version, part in enumerate(("language_model.layers", "visual.merger", "visual.blocks", "embed_tokens"), 5):
            loaded = await engine.load(plain.change(tmp_path, version, part))
            assert loaded.version == version and loaded.kept == 0
            after = await sample(engine, *question)
            plain.agrees(*question, after[0])
            assert after[0].versions == [(version, after[0].num_tokens)]
            assert after[0].log_probs != before[0].log_probs
            before = after

    async def test_adapters_are_added_to_the_weights_beneath_them(
        self, engine: Engine, plain: Plain, tmp_path: Path
    ) -> None:
        question = case(0, n=1, temperature=0.0, tokens=20)
        before = await sample(engine, *question)
        assert (await engine.load(plain.adapt(tmp_path, 5))).version == 5
        after = await sample(engine, *question)
        plain.agrees(*question, after[0])
        assert after[0].log_probs != before[0].log_probs

    @pytest.mark.parametrize(
        ("tensors", "said"),
        [({"foreign.weight": torch.zeros(1)}, "no such tensor"), ({"lm_head.weight": torch.zeros(2, 2)}, "model has")],
    )
    async def test_foreign_weights_are_refused_and_what_runs_stays(
        self, engine: Engine, plain: Plain, tmp_path: Path, tensors: dict[str, torch.Tensor], said: str
    ) -> None:
        with pytest.raises(Corrupt, match=said):
            await engine.load(weights_at(tmp_path, 9, tensors))
        question = case(n=1)
        plain.agrees(*question, (await sample(engine, *question))[0])

    async def test_weights_change_under_what_is_generated_and_each_token_says_which_made_it(
        self, engine: Engine, folder: Path, tmp_path: Path
    ) -> None:
        """Sooner or later after the group has begun, until one that it has tokens of both weights."""
        if not engine.traits.in_flight_updates:
            pytest.skip("this engine loads between groups")
        old, question = Plain(folder), case(0, n=2, tokens=300, temperature=1.0, seed=3)
        for attempt in range(7):
            new = Plain(folder)
            group = asyncio.create_task(sample(engine, *question))
            await asyncio.sleep(0.1 * 2**attempt)
            loaded = await engine.load(new.change(tmp_path / f"{attempt}", 5, "layers"), mode="keep")
            completions = await group
            assert loaded.kept == 1 or {run[0] for one in completions for run in one.versions} == {-1}
            if mixed := [one for one in completions if len(one.versions) == 2]:
                break
            await engine.load(weights_at(tmp_path / f"{attempt}-back", -1, dict(old.model.state_dict())))
        assert mixed
        for completion in mixed:
            (first, count), (second, rest) = completion.versions
            assert (first, second, count + rest) == (-1, 5, completion.num_tokens)
            new.agrees(*question, completion, since=count)
            answer = unpack_ints(completion.token_ids)
            expected = old.log_softmax(*question, answer, 1.0).gather(1, torch.from_numpy(answer).long()[:, None])
            found = unpack_floats(completion.log_probs)[:count]
            np.testing.assert_allclose(found, expected[:count, 0].numpy(), atol=TOLERANCE)

    async def test_a_cancelled_group_ends_and_the_engine_goes_on(self, engine: Engine, plain: Plain) -> None:
        prepared: Prepared = await engine.prepare(*case(0, n=2, tokens=5000))
        group = asyncio.create_task(engine.generate(prepared, key="long"))
        await asyncio.sleep(0.2)
        assert not group.done()
        group.cancel()
        async with asyncio.timeout(30.0):
            with pytest.raises(asyncio.CancelledError):
                await group
            question = case(1, n=1)
            plain.agrees(*question, (await sample(engine, *question))[0])

    async def test_an_engine_that_has_slept_wakes_with_the_weights_that_it_is_given(
        self, engine: Engine, plain: Plain, tmp_path: Path
    ) -> None:
        question = case(0, 168, n=1, temperature=0.0, tokens=20)
        before = await sample(engine, *question)
        await engine.sleep()
        plain.change(tmp_path, 6, "layers")
        everything = weights_at(tmp_path / "whole", 7, dict(plain.model.state_dict()))
        await engine.load(everything)
        after = await sample(engine, *question)
        plain.agrees(*question, after[0])
        assert after[0].log_probs != before[0].log_probs

    async def test_what_the_model_can_not_take_is_a_bad_sample(self, engine: Engine) -> None:
        with pytest.raises(BadSample, match="which only an image may put"):
            await engine.prepare(make_prompt("<image>What is <|image_pad|>?"), [png(84, 84)])
        with pytest.raises(BadSample, match="max_prompt_tokens allows 512"):
            await engine.prepare(*case(width=84, text="<image>" + "How many? " * 600))
