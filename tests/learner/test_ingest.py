import io
import threading
from copy import copy

import msgspec
import numpy as np
import pytest
from PIL import Image

from services.learner.attention.batch import ReadyImage
from services.learner.intake.pixels import PixelCache
from shared.errors import BadSample
from shared.messages import pack_floats, pack_ints

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine()


def test_a_group_becomes_arrays(engine, make_group):
    scored, images = make_group(0, sizes=[(56, 84)], text=2, lengths=[2, 3, 4], rewards=[1.0, None, 0.0])
    ready = engine.ingest(scored, images)
    assert ready.positions.shape == (3, 10) and ready.next_position == int(ready.positions.max()) + 1
    assert [row.index for row in ready.responses] == [0, 2]
    assert ready.num_valid == 2 and ready.num_response_tokens == 6 and not ready.uniform
    assert np.isnan(ready.advantages[1])
    assert engine.pixels.get(ready.images[0]).grid == (1, 6, 4)


def test_an_empty_completion_counts_in_the_group_but_is_not_trained_on(engine, make_group):
    ready = engine.ingest(*make_group(0, lengths=[0, 3], rewards=[0.0, 1.0]))
    assert [row.index for row in ready.responses] == [1] and ready.num_valid == 2
    assert ready.responses[0].advantage > 0


def test_a_group_without_a_verdict_says_so(engine, make_group):
    ready = engine.ingest(*make_group(0, rewards=[None, None]))
    assert ready.num_valid == 0 and ready.responses == ()


def change(scored, **fields):
    return replace(scored, group=replace(scored.group, **fields))


def first_completion(scored, **fields):
    first, *others = scored.group.completions
    return change(scored, completions=[replace(first, **fields), *others])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda scored: change(scored, prompt_ids=b""), "the prompt has no tokens"),
        (lambda scored: change(scored, prompt_ids=pack_ints([2, 4, 3])), "the prompt has 1 image tokens; its 1 images"),
        (lambda scored: change(scored, image_grid_thw=[(1, 2, 2)]), "in the rollout; expected equal ones"),
        (lambda scored: change(scored, prompt_ids=pack_ints([999])), "holds token 999; the model's vocabulary has 48"),
        (lambda scored: first_completion(scored, token_ids=pack_ints([7, 4, 8])), "holds token 4, which may not"),
        (lambda scored: first_completion(scored, token_ids=pack_ints([7, 40, 8])), "holds token 40, which may not"),
        (lambda scored: first_completion(scored, log_probs=pack_floats([-1.0])), "3 tokens, 1 log-probs"),
        (lambda scored: first_completion(scored, log_probs=pack_floats([-1.0, float("nan"), -1.0])), "finite"),
    ],
)
def test_a_group_that_contradicts_itself_is_a_bad_sample(engine, make_group, spoil, sentence):
    scored, images = make_group(0)
    with pytest.raises(BadSample, match=sentence):
        engine.ingest(spoil(scored), images)


def test_a_missing_image_is_a_bad_sample(engine, make_group):
    scored, _ = make_group(0)
    with pytest.raises(BadSample, match="names 1 images, 0 were given"):
        engine.ingest(scored, [])


def test_a_torn_image_is_a_bad_sample(engine, make_group):
    scored, images = make_group(77)
    with pytest.raises(BadSample, match="cannot be decoded"):
        engine.ingest(scored, [images[0][:200]])


class Counting:
    """A family that counts what it prepares."""

    def __init__(self, family):
        self.family, self.calls = family, 0

    def prepare(self, image, parts, *, alone):
        self.calls += 1
        return self.family.prepare(image, parts, alone=alone)


def counted(engine, family):
    inputs = copy(engine.model.inputs)
    inputs.family = family
    return inputs


def test_pixels_are_kept_within_their_bound_and_made_again_when_dropped(engine):
    family = Counting(engine.model.inputs.family)
    size = 16 * 588 + 4 * 768  # a 56x56 image: 16 patches of 588 bytes, its second frame left out, and the levels
    cache = PixelCache(counted(engine, family), limit_bytes=2 * size)
    images = [ReadyImage(str(shade), png(shade), alone=True) for shade in range(3)]
    cache.get(images[0])
    cache.get(images[1])
    cache.get(images[0])  # used again, so that image 1 is the oldest
    assert family.calls == 2 and cache.held_bytes == 2 * size
    cache.get(images[2])
    assert family.calls == 3 and cache.held_bytes == 2 * size
    cache.get(images[0])
    assert family.calls == 3
    cache.get(images[1])
    assert family.calls == 4


def test_an_image_asked_for_ahead_is_made_in_another_thread_and_once(engine):
    began, may_end = threading.Event(), threading.Event()

    class Slow(Counting):
        def prepare(self, image, parts, *, alone):
            began.set()
            assert may_end.wait(10)
            return super().prepare(image, parts, alone=alone)

    slow = Slow(engine.model.inputs.family)
    cache = PixelCache(counted(engine, slow), limit_bytes=0)  # nothing is kept: what comes is handed over
    image = ReadyImage("a", png(7), alone=True)
    cache.ahead([image, image])
    assert began.wait(10)  # while this thread goes on
    may_end.set()
    assert cache.get(image).grid == (1, 4, 4) and slow.calls == 1
    cache.get(image)
    assert slow.calls == 2


def test_pixels_are_those_of_the_image_processor(engine, make_group):
    _, (data,) = make_group(0, sizes=[(84, 56)])
    inputs = engine.model.inputs
    expected = inputs.parts.image_processor(images=[Image.open(io.BytesIO(data))], return_tensors="np")
    made = inputs.family.collate([PixelCache(inputs, limit_bytes=0).get(ReadyImage("a", data, alone=True))])
    assert np.array_equal(made["pixel_values"], expected["pixel_values"])
    assert made["image_grid_thw"].tolist() == expected["image_grid_thw"].tolist() == [[1, 4, 6]]


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (56, 56), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()
