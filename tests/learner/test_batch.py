import numpy as np
import pytest

from services.learner.attention.batch import micro_batches, mini_batches, pack, parts_of


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine()


@pytest.fixture(scope="module")
def ready(engine, make_group):
    def make(ordinal, **shape):
        return engine.ingest(*make_group(ordinal, **shape))

    return make


def test_micro_batches_keep_to_the_budget_and_hold_every_response_once(ready):
    groups = [ready(0, text=4, lengths=[3, 9]), ready(1, text=1, lengths=[7]), ready(2, text=9, lengths=[2, 2, 2])]
    batches = micro_batches(parts_of(groups, 25), 25)
    held = [(part.group.ordinal, row.index) for parts in batches for part in parts for row in part.responses]
    assert sorted(held) == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    assert all(sum(part.num_tokens for part in parts) <= 25 for parts in batches)


def test_a_response_larger_than_the_budget_has_a_micro_batch_of_its_own(ready):
    batches = micro_batches(parts_of([ready(0, text=4, lengths=[9, 9])], 5), 5)
    assert [[row.index for part in parts for row in part.responses] for parts in batches] == [[0], [1]]


@pytest.mark.parametrize(("updates", "sizes"), [(1, [5]), (2, [2, 3]), (5, [1, 1, 1, 1, 1]), (8, [1, 1, 1, 1, 1])])
def test_mini_batches_are_in_order_and_differ_by_one_at_most(updates, sizes):
    groups = list("abcde")
    batches = mini_batches(groups, updates)
    assert [len(batch) for batch in batches] == sizes
    assert [group for batch in batches for group in batch] == groups


def test_a_packed_row_holds_each_prompt_once_and_predicts_every_token_from_the_one_before(ready):
    group = ready(0, sizes=[(28, 28)], text=2, lengths=[2, 3])
    packed = pack(micro_batches(parts_of([group], 100), 100)[0], image_token_id=4)
    # <|vision_start|> <|image_pad|> <|vision_end|> text text, then two and three response tokens but the last of each.
    assert len(packed.token_ids) == 5 + 1 + 2
    assert packed.token_ids[:3].tolist() == [2, 4, 3]
    assert packed.source.tolist() == [4, 5, 4, 6, 7]
    first, second = group.responses
    assert packed.targets.tolist() == [*first.token_ids, *second.token_ids]
    assert packed.token_ids[5:].tolist() == [*first.token_ids[:-1], *second.token_ids[:-1]]
    assert packed.image_places.tolist() == [1]
    assert packed.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 5, 6]
    assert packed.advantages.tolist() == pytest.approx([group.advantages[0]] * 2 + [group.advantages[1]] * 3)


def test_a_response_of_one_token_stands_in_the_row(ready):
    packed = pack(parts_of([ready(0, sizes=[], text=2, lengths=[1, 1])], 100), image_token_id=4)
    assert packed.source.tolist() == [1, 1]
    assert len(packed.token_ids) == 2 + 1 + 1


def test_blocks_hold_every_token_once_and_restore_finds_it(ready):
    groups = [ready(0, text=3, lengths=[1, 14, 9]), ready(1, text=8, lengths=[2, 5])]
    packed = pack(micro_batches(parts_of(groups, 1000), 1000)[0], image_token_id=4)
    queries = np.concatenate([block.query.ravel() for block in packed.blocks])
    assert queries[packed.restore].tolist() == list(range(len(packed.token_ids)))
    padding = (queries < 0).mean()
    assert padding < 0.4


def test_a_long_prompt_beside_short_ones_does_not_pad_their_keys(ready):
    groups = [ready(0, sizes=[], text=800, lengths=[10, 9])]
    groups += [ready(ordinal, sizes=[], text=6, lengths=[10, 9]) for ordinal in range(1, 11)]
    packed = pack(micro_batches(parts_of(groups, 10_000), 10_000)[0], image_token_id=4)
    real = sum(len(group.prompt_ids) + 2 * len(group.prompt_ids) + 19 for group in groups)
    assert sum(block.key.size for block in packed.blocks) < real / 0.6
    assert len(packed.blocks) == 4


def test_the_images_of_a_prompt_are_numbered_and_text_has_none(ready):
    packed = pack(parts_of([ready(0, sizes=[(56, 28), (28, 28)], text=1, lengths=[2])], 100), image_token_id=4)
    prompt, response = packed.blocks
    assert prompt.images.tolist() == [[-1, 1, 1, -1, -1, 2, -1, -1]]
    assert response.images is None
