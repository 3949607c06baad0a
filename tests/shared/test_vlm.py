"""What sampler and learner treat alike."""

from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from shared.models.common import banned_token_ids, end_token_ids, image_token_count, special_token_ids, token_types


def test_banned_are_special_tokens_but_the_ends_and_the_padded_rows() -> None:
    assert banned_token_ids(vocab_size=8, tokenizer_size=6, special_ids=[0, 1, 2, 9], end_ids=[1]) == [0, 2, 6, 7]


def test_an_end_token_is_never_banned_even_in_a_padded_row() -> None:
    assert banned_token_ids(vocab_size=8, tokenizer_size=6, special_ids=[], end_ids=[7]) == [6]


class FakeTokenizer:
    """Token 3 was added but is an ordinary word; 1, 2 and 4 are special."""

    added_tokens_decoder = MappingProxyType({number: SimpleNamespace(special=number != 3) for number in (1, 3, 4)})
    all_special_ids = (1, 2)
    eos_token_id = 2

    def __len__(self) -> int:
        return 5


def test_tokens_that_are_only_added_are_not_special() -> None:
    assert special_token_ids(FakeTokenizer()) == {1, 2, 4}


@pytest.mark.parametrize(("eos", "ends"), [(None, [2]), (5, [2, 5]), ([2, 6], [2, 6])])
def test_ends_are_the_configurations_and_the_tokenizers(eos: int | list[int] | None, ends: list[int]) -> None:
    assert end_token_ids(eos, FakeTokenizer()) == ends


def test_token_types_tell_text_image_and_video_apart() -> None:
    kinds = token_types(np.array([[5, 7, 7, 8, 1]]), image_token_id=7, video_token_id=8)
    assert kinds.tolist() == [[0, 1, 1, 2, 0]]


def test_an_image_has_a_token_for_each_merged_square_of_patches() -> None:
    assert image_token_count((1, 6, 12), 2) == 18
