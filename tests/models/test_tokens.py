"""Which tokens end a completion and which ones are never sampled."""

from types import MappingProxyType, SimpleNamespace

import pytest

from shared.errors import BadJob
from shared.models.tokens import banned_token_ids, end_token_ids, ids_of_names, marked_ids


class FakeTokenizer:
    """Seven tokens; 0 is padding, 2 ends; 5 is what the family answers with."""

    added_tokens_decoder = MappingProxyType(
        {
            number: SimpleNamespace(content=text)
            for number, text in {0: "<pad>", 1: "<turn>", 2: "<end>", 3: "<row_1_col_2>", 5: "<box>"}.items()
        }
    )
    eos_token_id, pad_token_id = 2, 0

    def __len__(self) -> int:
        return 7

    def get_vocab(self) -> dict[str, int]:
        return {"word": 4, "<box>": 5}


MARKS = ("<turn>", "<row_*_col_*>", "<end>")


def test_banned_are_placeholders_marks_padding_and_unused_rows_but_not_the_tokens_of_an_answer() -> None:
    banned = banned_token_ids(FakeTokenizer(), vocab_size=9, placeholders=[6, None], marks=MARKS, ends=[2])
    assert banned == [0, 1, 3, 6, 7, 8]


def test_an_end_token_is_never_banned_even_in_a_padded_row() -> None:
    banned = banned_token_ids(FakeTokenizer(), vocab_size=9, placeholders=[], marks=(), ends=[0, 7])
    assert banned == [8]


def test_marks_are_taken_as_they_are_written_but_for_the_star() -> None:
    assert marked_ids(FakeTokenizer(), ["<row_*_col_*>", "[IMG]", "<b.x>"]) == {3: "<row_1_col_2>"}


@pytest.mark.parametrize(("eos", "ends"), [(None, [2]), (5, [2, 5]), ([2, 6], [2, 6])])
def test_ends_are_the_configurations_and_the_tokenizers(eos: int | list[int] | None, ends: list[int]) -> None:
    assert end_token_ids(eos, FakeTokenizer()) == ends


def test_a_banned_text_must_be_one_token() -> None:
    assert ids_of_names(FakeTokenizer(), ["<box>"]) == [5]
    with pytest.raises(BadJob, match="'two words'"):
        ids_of_names(FakeTokenizer(), ["two words"])
